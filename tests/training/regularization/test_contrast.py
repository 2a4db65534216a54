"""The supervised contrastive loss: its value by hand, and what it does in training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from helpers.small_runs import small_trainer, trainer_with

from hf_finetune.training.regularization.contrast import SupervisedContrast, contrastive_loss


def test_value_by_hand() -> None:
    """Two rows of a class point the same way, the third at a right angle; its class has no other row."""
    features_BD = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    loss = contrastive_loss(features_BD, torch.tensor([4, 4, 7]), 0.5)
    # For both: -log(e^2 / (e^2 + e^0)).
    assert loss.item() == pytest.approx(2 * math.log(1 + math.exp(-2)) / 3, abs=1e-6)
    assert contrastive_loss(features_BD, torch.tensor([0, 1, 2]), 0.5) == 0


def test_gradients_draw_a_class_together() -> None:
    features_BD = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels_B = torch.tensor([0, 0, 0, 1, 1, 1])
    before = contrastive_loss(features_BD, labels_B, 0.1)
    before.backward()
    assert features_BD.grad is not None and torch.isfinite(features_BD.grad).all()
    assert contrastive_loss(features_BD - 0.01 * features_BD.grad, labels_B, 0.1) < before


def test_the_loss_of_a_step_is_a_mean_of_both(tmp_path: Path) -> None:
    """Without dropout both copies of a row are alike: share 0 is the plain loss."""

    def first_loss(*hooks: SupervisedContrast) -> float:
        trainer = small_trainer(tmp_path, "bert", trainer=trainer_with(hooks=hooks))
        trainer.train()
        return next(line["loss"] for line in trainer.state.log_history if "loss" in line)

    plain = first_loss()
    assert first_loss(SupervisedContrast(0.0, 0.1)) == pytest.approx(plain, abs=1e-5)
    assert first_loss(SupervisedContrast(0.5, 0.1)) > plain + 0.1
