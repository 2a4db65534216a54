"""Runs of students that are to have more of their teacher than its logits."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from safetensors.torch import load_file

from hf_finetune import Launch, Recipe
from hf_finetune.distillation.config import DistillationKind
from hf_finetune.distillation.trainer import FEATURE_LOSSES
from hf_finetune.errors import InputError
from hf_finetune.pipeline import run as pipeline


def classifier(folder: Path, family: str, **shape: Any) -> Path:
    """With a head at random, of the classes the other way round."""
    pictures = family in ("vit", "deit", "resnet")
    checkpoint = (tiny_image_checkpoint if pictures else tiny_text_checkpoint)(folder, family, seed=1, **shape)
    task, labels = (
        ("image-classification", ("dark", "bright")) if pictures else ("text-classification", ("good", "bad"))
    )
    load_classifier(str(checkpoint), task=task, labels=labels, seed=7).model.save_pretrained(checkpoint)
    return checkpoint


def with_kinds(recipe: Recipe, *kinds: DistillationKind, **fields: Any) -> Recipe:
    return dataclasses.replace(recipe, objective=dataclasses.replace(recipe.objective, kinds=kinds, **fields))


def trained(recipe: Recipe, folder: Path, **fields: Any) -> dict[str, torch.Tensor]:
    """The weights that a run of the recipe with other fields saves, resumed where it was stopped; what it saved is
    gated."""
    result = pipeline.run(dataclasses.replace(recipe, **fields), Launch(str(folder), resume=True))
    assert result is not None and all(check["ok"] for check in result["parity"].values())
    return saved(folder)


def saved(folder: Path) -> dict[str, torch.Tensor]:
    found = load_file(next(folder.glob("*/*model.safetensors")))
    assert not any(FEATURE_LOSSES in name for name in found)
    return found


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[n] - other[n]).abs().max()) for n in one)


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def refused(recipe: Recipe, folder: Path, said: str) -> None:
    """Before anything is written."""
    with pytest.raises(InputError, match=said):
        pipeline.run(recipe, Launch(str(folder / "refused")))
    assert not (folder / "refused").exists()
