"""The classifier in Python: every kind of input has the same labels, and nothing else changes."""

from __future__ import annotations

import io
import logging
import os
import pickle
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from helpers.checkpoints import load_classifier, load_image_processor, load_tokenizer
from helpers.small_runs import image_rows
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from PIL import Image
from transformers.utils import logging as transformers_logging

from hf_finetune import Classifier, InputError
from hf_finetune.evaluation.logits import PART_ROWS
from hf_finetune.inference.python_inputs import rows_of
from hf_finetune.inference.session import in_python, python_session

LABELS = ("bad", "good")
TEXTS = ["a good film", "a bad film about the sea", "good", "the story was slow and the cast was dull"]


def saved(folder: Path, *, images: bool = False, pairs: bool = False) -> Path:
    """A classifier with random weights, saved as transformers does."""
    task = "image-classification" if images else "text-classification"
    checkpoint = str((tiny_image_checkpoint if images else tiny_text_checkpoint)(folder / "checkpoint"))
    model = load_classifier(checkpoint, task=task, labels=LABELS, seed=0).model
    if pairs:
        model.config.trained_on_pairs = True
    with torch.no_grad():
        model.classifier.weight.mul_(30)
    model.save_pretrained(folder / "saved")
    inputs = load_image_processor(checkpoint) if images else load_tokenizer(checkpoint, max_length=32, sample=[])
    inputs.save_pretrained(folder / "saved")
    return folder / "saved"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def clf(folder: Path) -> Classifier:
    return Classifier.load(folder)


@pytest.fixture(scope="module")
def of_images(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier.load(saved(tmp_path_factory.mktemp("images"), images=True))


@pytest.fixture
def expected(clf: Classifier) -> np.ndarray:
    return clf.predict_proba(TEXTS)


def test_labels_and_probabilities(clf: Classifier, expected: np.ndarray) -> None:
    assert expected.shape == (4, 2) and expected.dtype == np.float32
    assert np.allclose(expected.sum(axis=1), 1, atol=1e-6)
    labels = clf.predict(TEXTS)
    assert isinstance(labels, np.ndarray) and labels.tolist() == [LABELS[i] for i in expected.argmax(1)]
    assert clf.predict(TEXTS[0]) == labels[0] and isinstance(clf.predict(TEXTS[0]), str)
    assert np.allclose(clf.predict_proba(TEXTS[0]), expected[0], atol=1e-6)
    assert clf.predict([]).shape == (0,) and clf.predict_proba(iter([])).shape == (0, 2)


@pytest.mark.parametrize(
    "inputs",
    [
        tuple(TEXTS),
        (text for text in TEXTS),
        np.array(TEXTS),
        pd.Series(TEXTS),
        pd.DataFrame({"text": TEXTS, "label": ["?"] * 4}),
        Dataset.from_dict({"text": TEXTS, "number": [1, 2, 3, 4]}),
        {"text": TEXTS},
        pl.DataFrame({"text": TEXTS}),
        pl.Series(TEXTS),
        pa.chunked_array([TEXTS]),
        [{"text": text, "id": i} for i, text in enumerate(TEXTS)],
    ],
    ids=lambda inputs: type(inputs).__name__,
)
def test_every_kind_of_input(clf: Classifier, expected: np.ndarray, inputs: Any) -> None:
    assert np.allclose(clf.predict_proba(inputs), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (5, "inputs: expected a text, an image, or a collection of them, got int"),
        ([5], "inputs: expected texts, or pairs of texts, got 5"),
        ([None], "inputs: expected texts, or pairs of texts, got None"),
        (["good", None], "inputs, row 1 counted from 0, column 'text': the text is empty; correct or remove it"),
        (["good", 5], r"inputs, row 1 counted from 0, column 'text': expected text, got 5 \(int\); correct or remove it"),
        (pd.DataFrame({"text": ["good", ""]}), r"data \(DataFrame\), row 1 counted from 0, column 'text': the text is empty; correct or remove it"),
        (pd.DataFrame({"number": [1]}), r"data \(DataFrame\): no column holds the text"),
    ],
)  # fmt: skip
def test_unusable_inputs(clf: Classifier, inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}") as error:
        clf.predict(inputs)
    assert "drop" not in str(error.value) and "\n" not in str(error.value)


def test_unusable_labeled_rows_can_be_dropped(clf: Classifier) -> None:
    result = clf.evaluate((["good", "", "bad"], ["good", "good", None]), drop_bad_rows=True)
    assert result.rows == {"evaluation": 1} and result["dropped"]["rows"] == 2
    with pytest.raises(
        InputError, match=r"row 1 counted from 0, column 'text': the text is empty; .*`drop_bad_rows=True` leaves"
    ):
        clf.evaluate((["good", ""], ["good", "good"]))


def test_files_and_named_columns(clf: Classifier, expected: np.ndarray, tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": TEXTS, "b": TEXTS[::-1]})
    frame.to_csv(tmp_path / "new.csv", index=False)
    for inputs in (frame, tmp_path / "new.csv"):
        assert np.allclose(clf.predict_proba(inputs, text="a"), expected, atol=1e-6)
        with pytest.raises(InputError, match=r"could be 'a', 'b'; name it by `text=COL`"):
            clf.predict(inputs)


def test_a_generator_is_read_in_parts(clf: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PART_ROWS, "text", 3)
    taken: list[int] = []

    def rows() -> Iterator[str]:
        for i in range(8):
            taken.append(i)
            yield "  " if i == 7 else TEXTS[0]

    most = []
    monkeypatch.setattr(
        "hf_finetune.inference.classifier.rows_of",
        lambda *a: (most.append(len(taken)) or part for part in rows_of(*a)),  # type: ignore[func-returns-value]
    )
    with pytest.raises(InputError, match="inputs, row 7 counted from 0, column 'text': the text is empty"):
        clf.predict(rows())
    assert most == [3, 6]


def test_pairs(tmp_path: Path) -> None:
    clf = Classifier.load(saved(tmp_path, pairs=True))
    pairs = [("a good film", "a bad film"), ("good", "bad")]
    scores = clf.predict_proba(pairs)
    assert np.allclose(clf.predict_proba(np.array(pairs)), scores, atol=1e-6)
    assert np.allclose(clf.predict_proba(pairs[0]), scores[0], atol=1e-6) and "pairs of texts" in repr(clf)


def test_images(of_images: Classifier, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for file, row in zip(files, image_rows(4), strict=True):
        file.write_bytes(row["image"]["bytes"])
    pillow = [Image.open(io.BytesIO(file.read_bytes())) for file in files]
    scores = of_images.predict_proba(pillow)
    table = tmp_path / "table.csv"
    pd.DataFrame({"photo": [file.name for file in files]}).to_csv(table, index=False)
    in_memory = pd.DataFrame({"photo": [str(file) for file in files]})
    arrays = [np.asarray(image) for image in pillow]
    for inputs in (files, [str(file) for file in files], arrays, np.stack(arrays), tmp_path, table, in_memory):
        assert np.allclose(of_images.predict_proba(inputs), scores, atol=1e-6)
    for single in (pillow[0], files[0], str(files[0]), arrays[0]):
        assert np.allclose(of_images.predict_proba(single), scores[0], atol=1e-6)
    assert of_images.embed(pillow).shape == (4, 32)


def test_embeddings_are_what_the_last_layer_reads(clf: Classifier, expected: np.ndarray) -> None:
    features = torch.from_numpy(clf.embed(TEXTS))
    layer = clf._trained.model.classifier
    with torch.no_grad():
        assert np.allclose(torch.softmax(layer(features), -1).numpy(), expected, atol=1e-5)
    assert clf.embed(TEXTS[0]).shape == (32,) and clf.embed([]).shape == (0, 32)


def test_evaluation(clf: Classifier, expected: np.ndarray) -> None:
    labels = [LABELS[i] for i in expected.argmax(1)]
    result = clf.evaluate((TEXTS, labels))
    assert result.metric("accuracy").value == 1 and result.rows == {"evaluation": 4} and result.labels == LABELS
    assert str(result).startswith("saved on 4 evaluation rows")
    with pytest.raises(
        InputError,
        match=r"data, row 0 counted from 0, column 'label': the label 'god' is not among .*did you mean 'good'",
    ):
        clf.evaluate((TEXTS, ["god", *labels[1:]]))


def test_saved_and_pickled(clf: Classifier, expected: np.ndarray, tmp_path: Path) -> None:
    clf.save(tmp_path / "new" / "copy")
    assert np.array_equal(Classifier.load(tmp_path / "new" / "copy").predict_proba(TEXTS), expected)
    with pytest.raises(InputError, match="copy: the folder is not empty"):
        clf.save(tmp_path / "new" / "copy")
    assert np.array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(TEXTS), expected)


def test_repr_and_a_model_of_no_run(clf: Classifier, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert repr(clf) == "Classifier('saved', texts, 2 labels: bad, good)"
    assert clf.result is None and clf.labels == LABELS and clf.folder == folder
    with pytest.raises(InputError, match=r"no result.json; only the model of a run is pushed"):
        clf.push_to_hub("me/x")


def test_calls_leave_no_settings_behind(clf: Classifier) -> None:
    logger = logging.getLogger("hf_finetune")
    state = lambda: (  # noqa: E731
        torch.get_num_threads(), torch.get_float32_matmul_precision(), dict(os.environ), logger.level, logger.handlers[:],
        logger.propagate, list(warnings.filters), transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(), datasets.is_progress_bar_enabled(), random.getstate(),
        torch.random.get_rng_state().tolist(), str(np.random.get_state()),
    )  # fmt: skip
    transformers_logging.set_verbosity_info()
    datasets.enable_progress_bars()
    before = state()
    with python_session():
        os.environ["HF_FINETUNE_OF_A_TEST"] = "1"
        os.environ.pop("HOME", None)
        torch.set_num_threads(3)
        torch.manual_seed(5), random.seed(5), np.random.seed(5)
        clf.predict(TEXTS)
    after = state()
    transformers_logging.set_verbosity_error()
    assert after == before


def test_a_program_that_configures_the_logger_gets_the_notes(
    clf: Classifier, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("hf_finetune")
    with python_session():
        logger.warning("a warning")
    assert capsys.readouterr().err == "a warning\n"
    with python_session(notes=False):
        logger.warning("a warning")
    assert capsys.readouterr().err == ""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    logger.addHandler(handler)
    try:
        with python_session():
            logger.warning("a warning")
    finally:
        logger.removeHandler(handler)
    assert len(records) == 1 and capsys.readouterr().err == ""


def test_messages_name_keywords() -> None:
    assert in_python("x: name it by --text-pair COL, or raise --data.limits.decoded-bytes.") == (
        "x: name it by `text_pair=COL`, or raise `decoded_bytes=`."
    )
    assert in_python("--objective.loss Asymmetric, --max-length 134; a rate from --find-lr, or --teacher Path/to") == (
        '`loss="Asymmetric"`, `max_length=134`; a rate from `hf-finetune train --find-lr`, or `teacher=` Path/to'
    )
    assert in_python("no split of memory:data") == "no split of data"
    assert in_python("--output a--b: continue it by --resume") == "`output=` a--b: continue it by `resume=True`"
