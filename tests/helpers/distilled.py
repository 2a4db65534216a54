"""Runs of a student with a tiny teacher."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from helpers.checkpoints import load_classifier
from helpers.small_runs import small_recipe
from helpers.tiny import tiny_text_checkpoint
from safetensors.torch import load_file

from hf_finetune import Batching, Distill, Launch, Recipe, Train
from hf_finetune.distillation.config import DecoupledKD, HardLabel, MatchLogits, SoftTargets
from hf_finetune.pipeline import run as pipeline
from hf_finetune.pipeline.choose_kernels import default_kernels
from hf_finetune.pipeline.run import prepare
from hf_finetune.training.probe import KernelChoice

KINDS = (SoftTargets(3.0), HardLabel(0.1), MatchLogits(0.1), DecoupledKD(weight=0.1))


def distilled_recipe(folder: Path) -> Recipe:
    """A tiny BERT, taught by a tiny RoBERTa whose head is at random and whose classes are the other way round."""
    plain = small_recipe(folder)
    big = tiny_text_checkpoint(folder / "roberta", "roberta")
    load_classifier(str(big), task="text-classification", labels=("good", "bad"), seed=7).model.save_pretrained(big)
    return dataclasses.replace(
        plain,
        train=Train(num_train_epochs=2.0, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=1),
        batching=Batching(rows_per_step=8),
        objective=Distill(teacher=str(big), kinds=KINDS),
    )


def trained(recipe: Recipe, folder: Path, **fields: Any) -> dict[str, torch.Tensor]:
    """The weights that a run of the recipe with other fields saves, resumed where it was stopped; what it saved is
    gated."""
    result = pipeline.run(dataclasses.replace(recipe, **fields), Launch(str(folder), resume=True))
    assert result is not None and all(check["ok"] for check in result["parity"].values())
    return load_file(next(folder.glob("*/*model.safetensors")))


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def dry_run_weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    """The weights that a run of the recipe ends with, without what is saved and judged: in half the time."""
    prepared = prepare(recipe)
    with tempfile.TemporaryDirectory() as folder:
        trained = pipeline.fit_dry(prepared, Path(folder), KernelChoice(default_kernels(prepared)))
    return {name: tensor.detach().clone() for name, tensor in trained.trainer.trained_model().state_dict().items()}


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[n] - other[n]).abs().max()) for n in one)
