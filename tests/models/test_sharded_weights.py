"""Sharded weights: their index names files of the folder only, and all of them."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.checkpoints import load_classifier, refused

from hf_finetune.models.checkpoint import inspect_checkpoint


def point(folder: Path, target: str) -> None:
    """Make the index name `target` for one weight."""
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = target
    path.write_text(json.dumps(index))


def test_sharded_weights(sharded: Path):
    assert len(inspect_checkpoint(sharded).weights) > 1
    load_classifier(sharded, task="text-classification", labels=["a", "b"])


@pytest.mark.parametrize(
    "target", ["../outside.safetensors", "sub/../../outside.safetensors", "..\\outside.safetensors"]
)
def test_index_outside_its_folder_is_refused(sharded: Path, target: str):
    shutil.copy(next(sharded.glob("model-*.safetensors")), sharded.parent / "outside.safetensors")
    point(sharded, target)
    refused(sharded, "points outside", target)


def test_index_with_an_absolute_path_or_a_link(sharded: Path):
    outside = sharded.parent / "outside.safetensors"
    shutil.copy(next(sharded.glob("model-*.safetensors")), outside)
    (sharded / "link.safetensors").symlink_to(outside)
    for target in (str(outside), "link.safetensors"):
        point(sharded, target)
        refused(sharded, "points outside", target)


def test_index_of_bin_files_is_checked_too(sharded: Path):
    (sharded / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"x": "../../outside.bin"}})
    )
    refused(sharded, "pytorch_model.bin.index.json", "points outside")


def test_bin_shards_beside_safetensors_need_not_be_there(sharded: Path) -> None:
    """They are not fetched from the Hub, but their index is."""
    (sharded / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"x": "pytorch_model-00001-of-00002.bin"}})
    )
    assert all(file.suffix == ".safetensors" for file in inspect_checkpoint(sharded).weights)


def test_incomplete_index(sharded: Path):
    point(sharded, "model-00009-of-00009.safetensors")
    refused(sharded, "model-00009-of-00009.safetensors", "missing")
    (sharded / "model.safetensors.index.json").write_text("{}")
    refused(sharded, "weight_map")


def test_distributed_shards_are_refused(folder: Path):
    shutil.copy(folder / "model.safetensors", folder / "shard-00001-model-00001-of-00001.safetensors")
    refused(folder, "distributed")
