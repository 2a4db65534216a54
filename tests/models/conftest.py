"""One tiny checkpoint of each family for all tests of this folder, which must not change it."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.tiny import IMAGE_FAMILIES, tiny_image_checkpoint, tiny_text_checkpoint
from transformers import AutoModel

from hf_finetune.models.loading import Loaded


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the family's checkpoint."""

    @cache
    def folder(family: str) -> Path:
        make = tiny_image_checkpoint if family in IMAGE_FAMILIES else tiny_text_checkpoint
        return make(tmp_path_factory.mktemp(family), family)

    return folder


@pytest.fixture(scope="session")
def classifier(checkpoint: Callable[[str], Path]) -> Callable[..., Loaded]:
    """The family's checkpoint as a classifier of three classes."""

    def load(family: str, **options) -> Loaded:
        task = "image-classification" if family in IMAGE_FAMILIES else "text-classification"
        return load_classifier(checkpoint(family), **{"task": task, "labels": ["bad", "good", "so-so"]} | options)

    return load


@pytest.fixture(scope="session")
def inputs() -> Callable[[str], dict[str, torch.Tensor]]:
    """A batch of two rows, one of them padded."""

    def batch(family: str) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        if family in IMAGE_FAMILIES:
            return {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
        ids = torch.randint(5, 100, (2, 12), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, 7:] = 0
        ids[1, 7:] = 1 if family in ("roberta", "mpnet") else 0
        return {"input_ids": ids, "attention_mask": mask}

    return batch


@pytest.fixture
def folder(checkpoint, tmp_path: Path) -> Path:
    """A copy of the tiny BERT that a test may change."""
    return Path(shutil.copytree(checkpoint("bert"), tmp_path / "bert"))


@pytest.fixture
def sharded(checkpoint, tmp_path: Path) -> Path:
    """The tiny BERT with its weights in several files."""
    folder = tmp_path / "sharded"
    shutil.copytree(checkpoint("bert"), folder)
    (folder / "model.safetensors").unlink()
    AutoModel.from_pretrained(checkpoint("bert")).save_pretrained(folder, max_shard_size="60KB")
    return folder
