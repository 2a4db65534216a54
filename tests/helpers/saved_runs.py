"""Folders of finished runs that load: a tiny classifier that was never trained, with the documents of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from helpers.checkpoints import load_classifier
from helpers.hub_run import write_run
from helpers.tiny import tiny_text_checkpoint
from safetensors.torch import load_file, save_file

from hf_finetune.utils.manifest import Manifest

LABELS = ("negative", "positive")


def seal(run: Path) -> Path:
    """Write the manifest into result.json, as a run does when it finishes."""
    path = run / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"artifacts": Manifest.of(run).hashes}))
    return run


def saved_run(folder: Path) -> Path:
    """A run with model/, of two layers and the classes of `helpers.hub_run`."""
    checkpoint = tiny_text_checkpoint(folder / "checkpoint")
    run = write_run(folder / "run", adapter=False)
    shutil.rmtree(run / "model")
    shutil.copytree(checkpoint, run / "model")
    load_classifier(checkpoint, task="text-classification", labels=LABELS, seed=0).model.save_pretrained(run / "model")
    return seal(run)


def edit_config(run: Path, **entries: object) -> None:
    path = run / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def edit_weights(run: Path, name: str, value: float) -> None:
    """Set all of a tensor to a number."""
    path = run / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors[name].fill_(value)
    save_file(tensors, path, metadata={"format": "pt"})
