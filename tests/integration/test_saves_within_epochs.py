"""Runs killed between the epochs continue from `train.save_steps` to the same bits, whatever they are composed of."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.small_runs import small_recipe
from helpers.tiny import tiny_text_checkpoint
from transformers import TrainerState

from hf_finetune import (
    Averaging,
    Batching,
    Distill,
    Launch,
    MaskedLanguage,
    Pretrain,
    Recipe,
    Regularize,
    SwapWords,
    Train,
)
from hf_finetune.pipeline import run as pipeline
from hf_finetune.training.callbacks import LogLines


class Killed(Exception):
    pass


def kill_after(patch: pytest.MonkeyPatch, *steps: int) -> None:
    """Let runs fail at the end of these steps, one each, in order, as if killed: nothing is saved then."""
    left = list(steps)

    def killed(_: object, args: object, state: TrainerState, control: object, **__: object) -> None:
        if left and state.global_step == left[0]:
            left.pop(0)
            raise Killed

    patch.setattr(LogLines, "on_step_end", killed)


def weights(recipe: Recipe, folder: Path) -> dict[str, torch.Tensor]:
    with pipeline.trained_run(recipe, Launch(str(folder), resume=True)) as trained:
        return {name: tensor.detach().clone() for name, tensor in trained.trainer.trained_model().state_dict().items()}


@pytest.mark.parametrize("distilled", [False, True])
def test_a_run_killed_within_an_epoch_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, distilled: bool
) -> None:
    """Augmented, sampled by class, averaged, with mixout; or pretrained and distilled. The run with saves within its
    epochs is killed twice and ends as the one without them."""
    recipe = small_recipe(tmp_path)
    augmented = dataclasses.replace(recipe.data, augment=(SwapWords(p=0.3),))
    train = Train(num_train_epochs=2.0, per_device_train_batch_size=8, learning_rate=1e-3)
    fields: dict[str, Any] = {
        "batching": Batching(sampling="balanced"),
        "averaging": Averaging(ema_decay=0.9, tail_share=0.5),
        "regularize": Regularize(mixout=0.3),
    }
    if distilled:
        teacher = tiny_text_checkpoint(tmp_path / "roberta", "roberta")
        model = load_classifier(str(teacher), task="text-classification", labels=("good", "bad"), seed=7).model
        model.save_pretrained(teacher)
        pretrain = Pretrain(objective=MaskedLanguage(), num_train_epochs=1.0)
        fields = {"objective": Distill(teacher=str(teacher)), "pretrain": pretrain}
    recipe = dataclasses.replace(recipe, data=augmented, train=train, **fields)
    straight = weights(recipe, tmp_path / "straight")
    saving = dataclasses.replace(recipe, train=dataclasses.replace(train, save_steps=2))
    kill_after(monkeypatch, *((3, 9) if distilled else (3, 12)))
    for _ in range(2):
        with pytest.raises(Killed):
            weights(saving, tmp_path / "killed")
    with caplog.at_level("INFO", "hf_finetune.run"):
        again = weights(saving, tmp_path / "killed")
    assert straight.keys() == again.keys() and all(torch.equal(straight[name], again[name]) for name in straight)
    # An epoch has seven steps.
    assert f"resuming from checkpoint-{8 if distilled else 10}" in caplog.messages
