"""Metrics as `evaluate.Metric`: offline, in batches, combined, saved; and input that `evaluate` would accept
silently."""

import json
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest

from hf_finetune.errors import InputError
from hf_finetune.evaluation import metrics
from hf_finetune.evaluation.evaluate_metrics import ClassificationMetric

LABELS = np.random.default_rng(0).integers(3, size=60)
PROBABILITIES = metrics.softmax(np.random.default_rng(1).normal(size=(60, 3)) + 2 * np.eye(3)[LABELS])
PREDICTED = PROBABILITIES.argmax(axis=1)
EXPECTED = metrics.classification_metrics(LABELS, PROBABILITIES)


def class_metrics(folder: Path) -> list[evaluate.Metric]:
    return [ClassificationMetric(metric.name, cache_dir=str(folder)) for metric in metrics.COUNT_METRICS]


def probability_metrics(folder: Path) -> list[evaluate.Metric]:
    table = metrics.PROBABILITY_METRICS
    return [ClassificationMetric(metric.name, cache_dir=str(folder)) for metric in table]


def test_compute(tmp_path: Path) -> None:
    values: dict[str, float] = {}
    for metric in class_metrics(tmp_path):
        values |= metric.compute(predictions=PREDICTED, references=LABELS)
    for metric in probability_metrics(tmp_path):
        values |= metric.compute(prediction_scores=PROBABILITIES, references=LABELS)
    assert values == pytest.approx(EXPECTED, abs=1e-12)
    assert set(values) == set(EXPECTED)


def test_combined_in_batches_then_saved(tmp_path: Path) -> None:
    combined = evaluate.combine([*class_metrics(tmp_path), *probability_metrics(tmp_path)])
    for rows in (slice(0, 25), slice(25, 60)):
        combined.add_batch(predictions=PREDICTED[rows], prediction_scores=PROBABILITIES[rows], references=LABELS[rows])
    values = combined.compute()
    assert values == pytest.approx(EXPECTED, abs=1e-12)
    path = evaluate.save(tmp_path / "result.json", **values)
    assert json.loads(Path(path).read_text())["macro_f1"] == values["macro_f1"]


def test_row_by_row(tmp_path: Path) -> None:
    accuracy, _, f1, *_ = class_metrics(tmp_path)
    log_loss, *_ = probability_metrics(tmp_path)
    for label, predicted, scores in zip(LABELS, PREDICTED, PROBABILITIES, strict=True):
        accuracy.add(prediction=predicted, reference=label)
        f1.add(prediction=predicted, reference=label)
        log_loss.add(prediction_scores=scores, reference=label)
    values = accuracy.compute() | f1.compute() | log_loss.compute()
    assert values == pytest.approx({name: EXPECTED[name] for name in ("accuracy", "macro_f1", "log_loss")})


def test_area_is_left_out_when_a_class_has_no_references(tmp_path: Path) -> None:
    area = ClassificationMetric("roc_auc", cache_dir=str(tmp_path))
    assert area.compute(prediction_scores=PROBABILITIES[:1], references=LABELS[:1]) == {}


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([0.7, 1.2], [0, 1], "integer class ids, got float64"),
        ([float("nan")], [0], "integer class ids"),
        ([], [], "at least one row"),
        ([0, 1], [0, -1], "0 or more, got -1 in row 1"),
        ([0, 1, 1], [0, 1], "one for each of 2 labels, got 3"),
        (None, [0], "one class id per row"),
    ],
)
def test_refused_predictions(tmp_path: Path, predictions: list, references: list, message: str) -> None:
    for metric in class_metrics(tmp_path):
        with pytest.raises(ValueError, match=message):
            metric.compute(predictions=predictions, references=references)


@pytest.mark.parametrize(
    ("scores", "references", "message"),
    [
        ([[0.5, float("nan")]], [0], "finite"),
        (np.zeros((0, 2)), [], "at least one row"),
        ([[0.5, 0.5]], [2], "0 to 1, got 2"),
        ([[0.5, 0.5]], [0, 1], "one for each of 2 labels"),
        ([0.5], [0], "shape"),
    ],
)
def test_refused_scores(tmp_path: Path, scores: list, references: list, message: str) -> None:
    for metric in probability_metrics(tmp_path):
        with pytest.raises(InputError, match=message):
            metric.compute(prediction_scores=scores, references=references)


def test_predicted_classes_are_no_scores(tmp_path: Path) -> None:
    log_loss, *_ = probability_metrics(tmp_path)
    with pytest.raises(InputError, match="expected prediction_scores"):
        log_loss.add_batch(predictions=[1], references=[1])


def test_the_average_is_part_of_the_name(tmp_path: Path) -> None:
    """`average`, which metrics of the Hub take, is not ignored: the result would be another metric."""
    macro_f1 = ClassificationMetric("macro_f1", cache_dir=str(tmp_path))
    rows: dict[str, Any] = {"predictions": PREDICTED, "references": LABELS}
    with pytest.raises(TypeError, match=r"compute\(\) got an unexpected keyword argument 'average'"):
        macro_f1.compute(**rows | {"average": "weighted"})
    assert macro_f1.compute(**rows, prediction_scores=PROBABILITIES) == macro_f1.compute(**rows), "as `combine` does"


@pytest.mark.parametrize("name", ["binary_f1", None])
def test_unknown_name_is_refused(tmp_path: Path, name: str | None) -> None:
    with pytest.raises(InputError, match=f"expected one of .*; got '{name or 'default'}'"):
        ClassificationMetric(name, cache_dir=str(tmp_path))
