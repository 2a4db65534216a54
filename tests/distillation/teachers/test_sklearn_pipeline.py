"""A scikit-learn pipeline as a teacher: its own probabilities, its classes by name; and what is not loaded."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.small_runs import text_rows
from helpers.tiny import tiny_tokenizer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.tree import DecisionTreeClassifier

from hf_finetune.augmentation.augmenter import Augmenter, population_of
from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.inputs import TextInputs
from hf_finetune.distillation.cache import logits as logit_cache
from hf_finetune.distillation.predictions import predict_rows
from hf_finetune.distillation.teachers.loading import Teachers
from hf_finetune.distillation.teachers.sklearn_pipeline import read_sklearn
from hf_finetune.errors import InputError
from hf_finetune.features.classical import fit_classical
from hf_finetune.features.config import Classical, LinearModel
from hf_finetune.tasks.single_label import SingleLabel

skops = pytest.importorskip("skops.io")
ROWS = text_rows(40)
WORDS = ROWS["text"][:], ROWS["label"][:]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))


def fitted(labels: tuple[str, str] = ("poor", "fine")) -> Pipeline:
    """Fit a pipeline in which even rows have the first class."""
    return make_pipeline(CountVectorizer(), LogisticRegression()).fit(
        ROWS["text"][:], [labels[i] for i in ROWS["label"]]
    )


def write(path: Path, model: object) -> str:
    skops.dump(model, path)
    return str(path)


def test_predictions_are_its_probabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For rows and views, in the order of the data's classes, which is not alphabetical; cached."""
    model = fitted()
    name = write(tmp_path / "words.skops", model)
    teachers = Teachers((name,), SingleLabel(("poor", "fine")), "text").members
    expected = model.predict_proba(ROWS["text"][:])[:, ::-1]
    first, second = (predict_rows(teachers, {"train": ROWS, "validation": ROWS}, budget_gb=1.0) for _ in range(2))
    assert np.allclose(np.exp(first.logits["validation"]), expected, atol=1e-6)
    assert np.array_equal(second.of_training[np.arange(40)], first.logits["validation"])
    assert (first.cached, second.cached) == (False, True)
    online = predict_rows(teachers, {"train": ROWS, "validation": ROWS}, budget_gb=1.0, online=True).of_training
    views = AugmentedRows(
        ROWS, TextInputs(tiny_tokenizer(), 8), Augmenter((), 0, population_of(ROWS, ("poor", "fine")))
    )
    assert np.array_equal(online(views)[np.arange(40)], first.logits["validation"])
    assert not predict_rows(teachers, {"validation": text_rows(40, seed=1)}, budget_gb=1.0).cached
    # Two classes count as many.
    monkeypatch.setattr(logit_cache, "MANY", 1)
    monkeypatch.setattr(logit_cache, "TOP", 1)
    for whole in (True, False):
        teachers = Teachers((name,), SingleLabel(("poor", "fine")), "text", all_logits=whole).members
        logits = predict_rows(teachers, {"validation": ROWS}, budget_gb=1.0).logits["validation"]
        assert np.array_equal(logits, first.logits["validation"]) == whole


class Stranger(LogisticRegression):
    """A class that is not scikit-learn's."""


def test_faulty_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.skops").write_bytes(b"no archive")
    numbers = LogisticRegression().fit(np.eye(2), ["poor", "fine"])
    for name, message in (
        (
            str(tmp_path / "gone.skops"),
            r"gone.skops: not a fitted classifier as skops.io.dump writes it \(.*No such file",
        ),
        (str(tmp_path / "broken.skops"), r"broken.skops: not a fitted classifier as skops.io.dump writes it"),
        (write(tmp_path / "words.skops", CountVectorizer()), r"not a fitted classifier .*classes_"),
        (
            write(tmp_path / "stranger.skops", Stranger()),
            r"holds .*Stranger, which could run code .* and is not loaded",
        ),
        (
            write(tmp_path / "tree.skops", make_pipeline(CountVectorizer(), DecisionTreeClassifier()).fit(*WORDS)),
            r"holds sklearn.tree._tree.Tree, .*expected a vectorizer and a linear model .*columns text and p:NAME",
        ),
        (write(tmp_path / "other.skops", fitted(("poor", "good"))), r"which lacks 'fine' and has 'good' besides"),
    ):
        with pytest.raises(InputError, match=rf"^objective.teacher: .*{message}"):
            _ = Teachers((name,), SingleLabel(("poor", "fine")), "text").members
    with pytest.raises(InputError, match=r"numbers.skops: expected a pipeline that takes a list of texts"):
        read_sklearn(write(tmp_path / "numbers.skops", numbers), ("poor", "fine")).logits(["a text"])
    with pytest.raises(InputError, match=r"expected a classifier of images, got .*words.skops, which reads texts"):
        _ = Teachers((str(tmp_path / "words.skops"),), SingleLabel(("poor", "fine")), "image").members


def test_a_regressor_teaches_numbers_and_no_pipeline_tags(tmp_path: Path) -> None:
    texts = ["poor", "fine", "very fine"]
    name = write(tmp_path / "ridge.skops", make_pipeline(CountVectorizer(), Ridge(1e-6)).fit(texts, [1.0, 20.0, 30.0]))
    teacher = read_sklearn(name, ("score",), "identity")
    assert np.allclose(teacher.logits(texts), [[1], [20], [30]], atol=1e-3) and teacher.columns_C == (0,)
    with pytest.raises(InputError, match="it is a classifier; expected a regressor"):
        read_sklearn(write(tmp_path / "words.skops", fitted(("poor", "fine"))), ("score",), "identity")
    with pytest.raises(InputError, match="expected a network or a file of predictions as teacher of tags"):
        read_sklearn(name, ("a", "b"), "sigmoid")


def test_a_pipeline_of_method_classical(tmp_path: Path) -> None:
    """It reads a table with a column of texts."""
    model = fit_classical(Classical(LinearModel(1.0)), ROWS, labels=("poor", "fine"), names={"text": "review"}).pipeline
    teacher = read_sklearn(write(tmp_path / "pipeline.skops", model), ("poor", "fine"))
    expected = model.predict_proba(pd.DataFrame({"review": ROWS["text"][:]}))
    assert np.allclose(np.exp(teacher.logits(ROWS["text"][:])), expected, atol=1e-6)
