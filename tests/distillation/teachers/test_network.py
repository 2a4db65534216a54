"""Teachers as others left them: without a limit, without a tokenizer's config, for pairs, with a precision that files
lack; and what of many classes is cached."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from helpers.checkpoints import load_classifier
from helpers.small_runs import small_recipe, text_rows
from helpers.tiny import tiny_text_checkpoint

from hf_finetune import Distill
from hf_finetune.distillation.cache import logits as logit_cache
from hf_finetune.distillation.config import MatchLogits, SoftTargets
from hf_finetune.distillation.predictions import predict_rows
from hf_finetune.distillation.teachers.base import Teacher
from hf_finetune.distillation.teachers.loading import Teachers
from hf_finetune.errors import InputError
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.pipeline.context import setup_context
from hf_finetune.pipeline.load_data import load_data
from hf_finetune.pipeline.run import prepare
from hf_finetune.pipeline.teacher_predictions import build_teachers
from hf_finetune.tasks.single_label import SingleLabel


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Build a RoBERTa with positions for 64 tokens, a table of 66 rows."""
    checkpoint = tiny_text_checkpoint(tmp_path / "roberta", "roberta")
    loaded = load_classifier(str(checkpoint), task="text-classification", labels=("bad", "good"))
    loaded.model.save_pretrained(checkpoint)
    return checkpoint


def load(folder: Path) -> Teacher:
    return Teachers((str(folder),), SingleLabel(("bad", "good")), "text").members[0]


def test_maximum_length(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The stored length; else the number of its positions, with a note."""
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    caplog.set_level("INFO")
    for stored, length, message in (
        (8, 8, None),
        (66, 64, "stores a limit of 66; texts are cut off at 64 tokens"),
        (int(1e30), 64, "stores no limit; texts are cut off at 64 tokens"),
        (None, 64, "stores no limit; texts are cut off at 64 tokens"),
    ):
        caplog.clear()
        file.write_text(json.dumps({**config, "model_max_length": stored}))
        assert load(folder).classifier.inputs.max_length == length
        assert (message or "") in caplog.text and ("cut off" in caplog.text) == (message is not None)
    file.unlink()
    assert load(folder).classifier.inputs.max_length == 64


def test_pairs_for_a_teacher_of_single_texts_are_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = text_rows(4)
    pairs = Dataset.from_dict({**rows.to_dict(), "text_pair": rows["text"][:]})
    single = load(folder)
    predict_rows((single,), {"validation": rows}, budget_gb=1.0)
    assert "pairs of texts" not in caplog.text
    predict_rows((single,), {"validation": pairs}, budget_gb=1.0)
    assert "roberta: the data are pairs of texts" in caplog.text


def test_loaded_once_until_released(folder: Path) -> None:
    teachers = Teachers((str(folder),), SingleLabel(("bad", "good")), "text")
    first = teachers.members
    assert teachers.members is first
    teachers.release()
    (again,) = teachers.members
    assert again is not first[0] and again.weights == first[0].weights == teachers.weights


def test_notes_and_repeated_class_names(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(tmp_path)
    rows = text_rows(60)
    texts, good = [*rows["text"], rows["text"][0]], [0.9 if label else 0.1 for label in rows["label"]]
    columns = {"text": texts, "p:good": [*good, good[0] + 0.01], "p:bad": [*(1 - p for p in good), 0.89]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    objective = Distill(teacher=str(tmp_path / "a.parquet"), teacher_precision="bf16")
    notes = [note for note in prepare(dataclasses.replace(recipe, objective=objective)).notes if "a.parquet" in note]
    assert len(notes) == 2 and notes[:1] == list(load(tmp_path / "a.parquet").notes)
    assert "objective.teacher_precision has no effect here" in notes[1]
    monkeypatch.setattr("hf_finetune.distillation.teachers.loading.has_native_bf16", lambda _: True)
    both = (str(tmp_path / "a.parquet"), str(folder))
    assert list(Teachers(both, SingleLabel(("bad", "good")), "text", precision="bf16").notes) == notes[:1]
    config = json.loads((folder / "config.json").read_text())
    names = {"id2label": {0: "bad", 1: "bad"}, "label2id": {"bad": 0}}
    (folder / "config.json").write_text(json.dumps(config | names))
    with pytest.raises(InputError, match=r"another name for each class, got .*roberta, which has 'bad' more than once"):
        load(folder)


def test_match_logits_caches_all_logits(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes count as many here: SoftTargets get the most likely one, MatchLogits all logits."""
    recipe, rows = small_recipe(tmp_path), text_rows(20)
    few = predict_rows((load(folder),), {"validation": rows}, budget_gb=1.0).logits["validation"]
    monkeypatch.setattr(logit_cache, "MANY", 1)
    monkeypatch.setattr(logit_cache, "TOP", 1)
    logits = {}
    for kind in (SoftTargets(), MatchLogits()):
        distilled = dataclasses.replace(recipe, objective=Distill(teacher=str(folder), kinds=(kind,)))
        context = setup_context(distilled)
        teachers = build_teachers(*load_data(context)).members
        both = [predict_rows(teachers, {"validation": rows}, budget_gb=1.0) for _ in range(2)]
        assert [one.cached for one in both] == [False, True]
        logits[type(kind)] = both[1].logits["validation"]
    assert np.array_equal(logits[MatchLogits], few)
    assert np.abs(logits[SoftTargets] - few).max() > 0.1
    assert np.allclose(softmax(logits[SoftTargets]), softmax(few), atol=5e-4)
