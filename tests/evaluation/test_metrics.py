"""Every metric against scikit-learn, to 1e-12, and against values computed by hand."""

import math
import warnings
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from hf_finetune.errors import InputError
from hf_finetune.evaluation import metrics
from hf_finetune.evaluation.config import EpochMetric
from hf_finetune.evaluation.metric_tables import METRICS

cases = given(
    rows=st.integers(1, 120),
    num_labels=st.integers(2, 12),
    used=st.integers(1, 12),
    signal=st.floats(0, 6),
    decimals=st.sampled_from([1, 2, 12]),
    seed=st.integers(0, 2**31),
)


def draw(
    *, rows: int, num_labels: int, used: int, signal: float, decimals: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the first `used` classes, and logits rounded to produce ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(min(used, num_labels), size=rows)
    logits = rng.normal(size=(rows, num_labels))
    logits[np.arange(rows), labels] += signal
    return labels, logits.round(decimals)


@settings(max_examples=150, deadline=None)
@cases
def test_equal_to_scikit_learn(**case: Any) -> None:
    labels, logits = draw(**case)
    probabilities = metrics.softmax(logits)
    predicted = logits.argmax(axis=1)
    classes = list(range(case["num_labels"]))
    with warnings.catch_warnings():
        # Classes that are only predicted, single-class labels: scikit-learn warns and returns the value we want.
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": reference.accuracy_score(labels, predicted),
            "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
            "macro_f1": reference.f1_score(labels, predicted, average="macro"),
            "micro_f1": reference.f1_score(labels, predicted, average="micro"),
            "weighted_f1": reference.f1_score(labels, predicted, average="weighted"),
            "matthews_correlation": reference.matthews_corrcoef(labels, predicted),
            "log_loss": reference.log_loss(labels, probabilities, labels=classes),
        }
    if len(np.unique(labels)) == case["num_labels"]:
        scores = probabilities[:, 1] if case["num_labels"] == 2 else probabilities
        expected["roc_auc"] = reference.roc_auc_score(labels, scores, multi_class="ovr")
    values = metrics.classification_metrics(labels, probabilities)
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-12, rel=0)
    assert ("roc_auc" in values) == ("roc_auc" in expected)


@settings(max_examples=50, deadline=None)
@cases
def test_calibration_error_is_the_papers_sum_over_bins(**case: Any) -> None:
    labels, logits = draw(**case)
    probabilities = metrics.softmax(logits)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for m in range(1, 16):
        inside = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        if inside.any():
            expected += inside.sum() / len(labels) * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics.METRICS["ece"].value(labels, probabilities) == pytest.approx(expected, abs=1e-12)


def test_values_by_hand() -> None:
    # Two bins are used: confidences 0.9, 0.9 (one right of two) and 0.7, 0.7 (both right).
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]])
    values = metrics.classification_metrics(np.array([0, 1, 1, 1]), probabilities)
    assert values["accuracy"] == 0.75
    assert values["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert values["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert values["weighted_f1"] == pytest.approx(2 / 3 / 4 + 4 / 5 * 3 / 4)
    assert values["matthews_correlation"] == pytest.approx(1 / math.sqrt(3))
    assert values["log_loss"] == pytest.approx(-(math.log(0.9) + math.log(0.1) + 2 * math.log(0.7)) / 4)
    assert values["ece"] == pytest.approx((2 * 0.4 + 2 * 0.3) / 4)
    # Scores of class 1: 0.1 for the one negative; 0.1, 0.7, 0.7 for the positives: a tie and two wins of three pairs.
    assert values["roc_auc"] == pytest.approx(2.5 / 3)


@pytest.mark.parametrize("metric", metrics.METRICS.values(), ids=lambda metric: metric.name)
def test_greater_is_better_as_the_table_says(metric: metrics.Metric) -> None:
    """Confident correct predictions are better than confident wrong ones."""
    labels = np.array([0, 1, 2, 0, 1, 2])
    best = metrics.classification_metrics(labels, np.eye(3)[labels])[metric.name]
    worst = metrics.classification_metrics(labels, np.eye(3)[(labels + 1) % 3])[metric.name]
    assert (best > worst) == metric.greater_is_better and best != worst


def test_names_of_other_places_are_in_the_table() -> None:
    assert set(metrics.SUMMARY_METRICS) <= set(metrics.METRICS)
    assert set(get_args(EpochMetric)) <= set(METRICS)


def test_log_loss_of_a_certain_mistake_is_finite() -> None:
    values = metrics.classification_metrics(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert values["log_loss"] == pytest.approx(-math.log(np.finfo(float).eps) / 2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities_of_low_precision_are_not_taken_for_logits(dtype: type) -> None:
    probabilities = metrics.softmax(np.random.default_rng(0).normal(size=(500, 40))).astype(dtype)
    assert np.array_equal(metrics.as_probabilities(probabilities), probabilities)


@pytest.mark.parametrize("row", [[0.0, 0.0], [0.9, 0.3], [-0.1, 1.1], [2.0, -1.0]])
def test_logits_are_refused(row: list[float]) -> None:
    with pytest.raises(InputError, match="in row 1; take the softmax"):
        metrics.as_probabilities(np.array([[0.5, 0.5], row]))


def test_softmax_of_large_logits() -> None:
    assert np.array_equal(metrics.softmax(np.array([[1e4, -1e4], [-1e4, -1e4]])), [[1, 0], [0.5, 0.5]])


def test_any_class_ids_count_without_a_number_of_classes() -> None:
    counts = metrics.class_counts([10**12, 7, 7], [10**12, 7, 0])
    assert counts.support.tolist() == [0, 2, 1]
    assert metrics.accuracy(counts) == pytest.approx(2 / 3)


def test_log_loss_of_soft_labels_is_the_mixture_of_hard_ones() -> None:
    """By hand: 0.25 x -log 0.2 + 0.75 x -log 0.5."""
    probabilities = np.array([[0.2, 0.3, 0.5]])
    expected = -0.25 * math.log(0.2) - 0.75 * math.log(0.5)
    assert metrics.row_log_losses(np.array([[0.25, 0.0, 0.75]]), probabilities).tolist() == pytest.approx([expected])


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([], [], "at least one row"),
        ([0, 1], [0.0, 1.0], "integer class ids, got float64"),
        ([0.0, float("nan")], [0, 1], "labels: expected integer class ids"),
        ([0, None], [0, 1], "integer class ids, got object"),
        ([0, 1], [True, False], "integer class ids, got bool"),
        ([0, 1], [0, 3], "0 to 2, got 3 in row 1"),
        ([-1, 1], [0, 1], "labels: expected class ids of 0 to 2, got -1 in row 0"),
        ([0, 1], [0], "one for each of 2 labels, got 1"),
        ([[0, 1]], [0], "one class id per row"),
        (
            [[0.75, 0.25, 0.0]],
            [0],
            r"labels: expected class numbers \(N,\), got probabilities \(1, 3\); take the argmax",
        ),
    ],
)
def test_refused_class_ids(labels: list, predicted: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        metrics.class_counts(labels, predicted, num_labels=3)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([], np.zeros((0, 2)), "at least one row"),
        ([0], [[0.1, float("nan")]], "finite numbers, got .* in row 0"),
        ([0, 1], [[0.0, 1.0], [float("inf"), 0.0]], "in row 1"),
        ([0], [0.1], "shape"),
        ([0], [[1.0]], "two classes or more"),
        ([0, 1], [[0, 1], [1, 0]], "expected floats"),
        ([0, 2], [[0.1, 0.9], [0.9, 0.1]], "0 to 1, got 2 in row 1"),
        ([0, 1, 1], [[0.1, 0.9], [0.9, 0.1]], "one for each of 3 labels, got 2"),
    ],
)
def test_refused_scores(labels: list, scores: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        metrics.classification_metrics(labels, scores)
