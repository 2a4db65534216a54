"""Pipelines on features of a checkpoint: saved with its weights, and refused with others or when only this machine has it."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.small_runs import text_rows
from helpers.tiny import tiny_text_checkpoint

from hf_finetune.errors import GateError, InputError
from hf_finetune.features.classical import fit_classical
from hf_finetune.features.config import Classical, EncoderFeatures, LinearModel, WordTfidf
from hf_finetune.features.encoder_states import load_encoder
from hf_finetune.tasks.single_label import SingleLabel
from hf_finetune.tasks.trained_pipeline import TrainedPipeline, load_trained_pipeline, refuse_local_checkpoints

LABELS = ("bad", "good")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    load_encoder.cache_clear()
    checkpoint = str(tiny_text_checkpoint(tmp_path / "bert", "bert"))
    extractors = (WordTfidf(), EncoderFeatures(checkpoint, layer=1, max_length=16))
    fitted = fit_classical(Classical(LinearModel(1.0), extractors), text_rows(20), labels=LABELS)
    trained = TrainedPipeline(fitted, SingleLabel(LABELS), "text")
    folder = tmp_path / "classical"
    folder.mkdir()
    trained.save(folder)
    rows = text_rows(5, 1)
    assert np.array_equal(load_trained_pipeline(folder, "run").logits(rows), trained.logits(rows))
    assert not trained.is_plain
    return folder


def test_other_weights_are_refused(saved: Path) -> None:
    load_encoder.cache_clear()
    tiny_text_checkpoint(saved.parent / "bert", "bert", seed=1)
    with pytest.raises(
        GateError, match=r"run: its features are of .*bert, whose weights are not those that it was trained"
    ):
        load_trained_pipeline(saved, "run")


def test_a_local_checkpoint_is_not_pushed(saved: Path) -> None:
    with pytest.raises(InputError, match=r"its features are of .*bert, which nobody else has"):
        refuse_local_checkpoints(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("table", None),
        ("labels", 3),
        ("classical", {"classifier": "Tree"}),
        ("label_separator", 3),
        ("checkpoints", ["bert"]),
    ],
)
def test_a_damaged_document_is_refused(key: str, value: object, saved: Path) -> None:
    path = saved / "classical.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError):
        load_trained_pipeline(saved, "run")


def test_damaged_checkpoints_are_not_pushed(saved: Path) -> None:
    path = saved / "classical.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"checkpoints": 3}))
    with pytest.raises(InputError, match=r"classical\.json: checkpoints: expected the weights of each by name, got 3"):
        refuse_local_checkpoints(saved)
