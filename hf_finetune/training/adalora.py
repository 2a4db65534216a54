"""AdaLoRA in training: it cuts ranks step by step and keeps singular vectors orthogonal.

https://arxiv.org/abs/2303.10512
"""

from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import TrainerState

from hf_finetune.training.hooks import Hook, SummedLoss


class AdaLora(Hook):
    """Scores each rank by weights and gradients after each step and cuts the lowest; adds a penalty to the loss.

    Args:
        adapted: a model with an AdaLoRA adapter whose schedule is set, see `models.peft.adapters.add_adapter`.
            Checkpoints hold the schedule's state, see `models.peft.state`.
        cuts: False: keep the ranks.
    """

    def __init__(self, adapted: PeftModel, *, cuts: bool = True) -> None:
        self.adapted, self.cuts = adapted, cuts

    def on_loss(self, loss: SummedLoss) -> SummedLoss:
        """Add `orthogonality` times the rows of the micro-batch: the mean over the step then holds it once."""

        def penalized(logits: torch.Tensor, targets: Any) -> torch.Tensor:
            return loss(logits, targets) + len(targets) * orthogonality(self.adapted)

        return penalized

    def after_update(
        self, model: nn.Module, state: TrainerState, optimizer: torch.optim.Optimizer, *, overflowed: bool
    ) -> None:
        """Cut ranks by the gradients of this step. Gradients that overflowed count as 0."""
        if not self.cuts:
            return
        if overflowed:
            for parameter in model.parameters():
                if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                    parameter.grad.zero_()
        tuner: Any = self.adapted.base_model
        tuner.update_and_allocate(state.global_step + 1)


def orthogonality(adapted: PeftModel) -> torch.Tensor:
    """Compute AdaLoRA's penalty: the mean of |P P^T - I| over all P and Q, times the config's `orth_reg_weight`.

    peft adds it only to a loss that the model itself computes.

    Returns:
        Scalar.
    """
    distances = []
    for name, parameter in adapted.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            rows = parameter if ".lora_A." in name else parameter.T
            distances.append(torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows), device=rows.device)))
    return adapted.active_peft_config.orth_reg_weight * torch.stack(distances).mean()
