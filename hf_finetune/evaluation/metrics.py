"""The classification metrics: kernels in pure numpy, equal to scikit-learn, and their one table, `METRICS`.

To add a metric, write its kernel and a row of the table; intervals, result.json, the card and the `evaluate` modules
follow. Every kernel of counts works over trailing axes too, so that one formula serves the value and its bootstrap
resamples.

Shapes: N rows, C classes, R any trailing axes (resamples).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from hf_finetune.errors import InputError

Average = Literal["macro", "micro", "weighted"]
EpochMetric = Literal["accuracy", "balanced_accuracy", "macro_f1", "matthews_correlation", "log_loss"]
"""The metrics of `METRICS` that can choose the epoch whose weights are kept."""
SUMMARY_METRICS = ("accuracy", "macro_f1", "log_loss")
"""Metrics of the models that a run is compared with, and of the table at its end."""
BINS = 15
"""Confidence bins of the expected calibration error, as in arXiv:1706.04599."""
EPSILON = float(np.finfo(np.float64).eps)
"""Smallest probability that the log loss sees, as in scikit-learn."""


@dataclass(frozen=True)
class Counts:
    """All that the metrics of predicted classes need to know of the confusion matrix; each array is (C, R)."""

    right: np.ndarray
    """Rows of a class that were predicted as that class."""
    support: np.ndarray
    """Rows of a class."""
    predicted: np.ndarray
    """Rows predicted as a class."""


@dataclass(frozen=True)
class Metric:
    """A metric of single-label classification: one row of the table."""

    name: str
    """Its key in result.json."""
    title: str
    """Its name in a model card."""
    _: KW_ONLY
    greater_is_better: bool
    """False for an error: the epoch that it chooses is the one with the least."""
    hub_type: str
    """What the Hub calls it."""
    hub_arguments: dict[str, str] | None = None
    """What tells it from the Hub's other metrics of the same type."""


@dataclass(frozen=True)
class CountMetric(Metric):
    """A metric of predicted classes."""

    of_counts: Callable[[Counts], np.ndarray]
    """From counts (C, R) to values (R)."""
    interval: Literal["row share", "row mean", "class mean", "correlation"]
    """Which interval it gets, see `intervals.bootstrap`: a `row share` is the share of right rows; a `row mean`
    weights every row alike, a `class mean` every class; a `correlation` gives a guess 0 and a perfect model 1."""


@dataclass(frozen=True)
class RowMetric(Metric):
    """A metric of probabilities that is the mean of a value of each row."""

    of_rows: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """From labels (N,) and probabilities (N, C) to the rows' values (N,)."""

    def value(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        """The mean over rows."""
        return float(self.of_rows(labels, probabilities).mean())


@dataclass(frozen=True)
class ScoreMetric(Metric):
    """Any other metric of probabilities; `intervals.bootstrap` has a special interval for each."""

    value: Callable[[np.ndarray, np.ndarray], float | None]
    """From labels (N,) and probabilities (N, C) to the value; None where it is not defined."""


def class_ids(values: Any, *, name: str, num_labels: int | None = None) -> np.ndarray:
    """Class ids as an int64 array of shape (N,).

    Args:
        values: class ids, one a row.
        name: what an error calls them.
        num_labels: number of classes; None: any id from 0 on.

    Raises:
        InputError: no rows, more than one axis, a type other than integer, or an id outside 0 .. num_labels - 1.
    """
    ids = np.asarray(values)
    if ids.ndim == 2 and ids.dtype.kind == "f":
        raise InputError(f"{name}: expected class numbers (N,), got probabilities {ids.shape}; take the argmax first")
    if ids.ndim != 1:
        raise InputError(f"{name}: expected one class id a row, got shape {ids.shape}")
    if len(ids) == 0:
        raise InputError(f"{name}: expected at least one row, got none")
    if ids.dtype.kind not in "iu":
        raise InputError(f"{name}: expected integer class ids, got {ids.dtype}; take the argmax of scores first")
    highest = num_labels - 1 if num_labels is not None else np.iinfo(np.int64).max
    outside = np.flatnonzero((ids < 0) | (ids > highest))
    if len(outside):
        expected = "0 or more" if num_labels is None else f"0 to {highest}"
        raise InputError(f"{name}: expected class ids of {expected}, got {ids[outside[0]]} in row {outside[0]}")
    return ids.astype(np.int64, copy=False)


def labels_and_scores(labels: Any, scores: Any) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) as int64 and finite scores (N, C) as float64, checked against each other.

    Raises:
        InputError: no rows, a NaN or infinite score, fewer than two columns, lengths that differ, or a label that has
            no column.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or scores.shape[1] < 2 or scores.dtype.kind != "f":
        raise InputError(
            f"scores: expected floats of shape (rows, classes) with two classes or more, got {scores.dtype} of shape "
            f"{scores.shape}"
        )
    ids = class_ids(labels, name="labels", num_labels=scores.shape[1])
    _same_length(ids, scores)
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
        raise InputError(f"scores: expected finite numbers, got {scores[row].tolist()} in row {row}")
    return ids, scores.astype(np.float64, copy=False)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) of logits (N, C), in float64."""
    exponentials = np.exp(np.asarray(logits, dtype=np.float64) - np.max(logits, axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def as_probabilities(scores: np.ndarray) -> np.ndarray:
    """`scores` (N, C), made sure to be probabilities. The tolerance covers those computed in bfloat16.

    Raises:
        InputError: a score outside [0, 1], or a row that does not sum to 1 within 1%. Logits are not guessed at: some
            look like probabilities.
    """
    wrong = (scores.min(axis=1) < 0) | (scores.max(axis=1) > 1) | (np.abs(scores.sum(axis=1) - 1) > 0.01)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"scores: expected probabilities that sum to 1, got {scores[row].tolist()} in row {row}; "
            "take the softmax of logits"
        )
    return scores


def class_counts(labels: Any, predicted: Any, *, num_labels: int | None = None) -> Counts:
    """Counts of shape (C,) for class ids `labels` (N,) and `predicted` (N,).

    Args:
        labels: true classes.
        predicted: predicted classes.
        num_labels: number of classes C; None: as many as occur.

    Raises:
        InputError: as `class_ids`, or lengths that differ.
    """
    labels = class_ids(labels, name="labels", num_labels=num_labels)
    predicted = class_ids(predicted, name="predictions", num_labels=num_labels)
    _same_length(labels, predicted)
    if num_labels is None:
        names, ids = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
        (labels, predicted), num_labels = np.split(ids, 2), len(names)
    return Counts(
        right=np.bincount(labels[labels == predicted], minlength=num_labels),
        support=np.bincount(labels, minlength=num_labels),
        predicted=np.bincount(predicted, minlength=num_labels),
    )


def accuracy(counts: Counts) -> np.ndarray:
    """Share of rows predicted right, shape (R)."""
    return counts.right.sum(axis=0) / counts.support.sum(axis=0)


def balanced_accuracy(counts: Counts) -> np.ndarray:
    """Mean recall over the classes that have rows, shape (R)."""
    recall = counts.right / np.maximum(counts.support, 1)
    return recall.sum(axis=0) / (counts.support > 0).sum(axis=0)


def f1(counts: Counts, average: Average) -> np.ndarray:
    """Harmonic mean of precision and recall, shape (R).

    Args:
        counts: of shape (C, R).
        average: `macro`: mean over the classes that occur among labels or predictions; `weighted`: mean over classes
            weighted by their rows; `micro`: over all rows at once, which is the accuracy where every row has one class.
    """
    if average == "micro":
        return accuracy(counts)
    occurrences = counts.support + counts.predicted
    score = 2 * counts.right / np.maximum(occurrences, 1)
    if average == "weighted":
        return (score * counts.support).sum(axis=0) / counts.support.sum(axis=0)
    return score.sum(axis=0) / (occurrences > 0).sum(axis=0)


def matthews_correlation(counts: Counts) -> np.ndarray:
    """Correlation of labels and predictions for any number of classes, shape (R); 0 if either is constant.

    Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient".
    """
    support, predicted = counts.support.astype(np.float64), counts.predicted.astype(np.float64)
    rows = support.sum(axis=0)
    covariance = counts.right.sum(axis=0) * rows - (support * predicted).sum(axis=0)
    variances = (rows**2 - (support**2).sum(axis=0)) * (rows**2 - (predicted**2).sum(axis=0))
    return np.where(variances > 0, covariance / np.sqrt(np.maximum(variances, 1)), 0.0)


def row_log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Negative log-likelihood (N,) of the true classes, in nats.

    Args:
        labels: class ids, shape (N,); or soft, shape (N, C), how much of each class is in a row: then the same mixture
            of the classes' losses.
        probabilities: shape (N, C).
    """
    if labels.ndim == 2:
        return -(labels * np.log(np.maximum(probabilities, EPSILON))).sum(axis=1)
    return -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], EPSILON))


def confidence_bin(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Index of the equal-width bin (low, high] of [0, 1] that holds each confidence; same shape."""
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over confidence bins, weighted by rows (arXiv:1706.04599).

    Args:
        labels: true classes, shape (N,).
        probabilities: shape (N, C).
        bins: number of bins of equal width.
    """
    confidence = probabilities.max(axis=1)
    gaps = (probabilities.argmax(axis=1) == labels) - confidence
    return float(np.abs(np.bincount(confidence_bin(confidence, bins), gaps, bins)).sum() / len(labels))


def roc_auc(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Area under the ROC curve, and what each row adds to its error.

    Two classes: of class 1. More: mean over the classes, each against the rest. None when a class has no rows, where
    the area is not defined.

    Args:
        labels: true classes, shape (N,).
        probabilities: shape (N, C).

    Returns:
        The area, and the influence (N,) of each row on it, whose sum of squares is the area's variance: DeLong et al.
        1988, "Comparing the areas under two or more correlated receiver operating characteristic curves".
    """
    num_labels = probabilities.shape[1]
    if (np.bincount(labels, minlength=num_labels) == 0).any():
        return None
    classes = [1] if num_labels == 2 else range(num_labels)
    areas, influence = [], np.zeros(len(labels))
    for column in classes:
        positive = np.flatnonzero(labels == column)
        negative = np.flatnonzero(labels != column)
        positive = positive[np.argsort(probabilities[positive, column])]
        negative = negative[np.argsort(probabilities[negative, column])]
        above = _share_below(probabilities[positive, column], probabilities[negative, column])
        below = 1 - _share_below(probabilities[negative, column], probabilities[positive, column])
        areas.append(above.mean())
        influence[positive] += (above - areas[-1]) / len(positive)
        influence[negative] += (below - areas[-1]) / len(negative)
    return float(np.mean(areas)), influence / len(classes)


def classification_metrics(labels: Any, scores: Any) -> dict[str, float]:
    """Every metric of `METRICS` by name, but those that are not defined for these labels.

    Args:
        labels: true class ids, shape (N,).
        scores: probabilities, shape (N, C).

    Raises:
        InputError: as `labels_and_scores` and `as_probabilities`.
    """
    labels, scores = labels_and_scores(labels, scores)
    probabilities = as_probabilities(scores)
    counts = class_counts(labels, scores.argmax(axis=1), num_labels=scores.shape[1])
    values = {
        **{metric.name: float(metric.of_counts(counts)) for metric in COUNT_METRICS},
        **{metric.name: metric.value(labels, probabilities) for metric in PROBABILITY_METRICS},
    }
    return {name: value for name, value in values.items() if value is not None}


def _same_length(labels: np.ndarray, predictions: np.ndarray) -> None:
    if len(labels) != len(predictions):
        raise InputError(f"predictions: expected one for each of {len(labels)} labels, got {len(predictions)}")


def _share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Share of the sorted `others` that lie below each of `values`, ties counted half."""
    below = np.searchsorted(others, values, side="left") + np.searchsorted(others, values, side="right")
    return below / (2 * len(others))


def _area(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """The area of `roc_auc` alone."""
    area = roc_auc(labels, probabilities)
    return None if area is None else area[0]


def _f1_metric(average: Average, interval: Literal["row share", "row mean", "class mean"]) -> CountMetric:
    return CountMetric(
        f"{average}_f1",
        f"{average.capitalize()} F1",
        partial(f1, average=average),
        interval,
        greater_is_better=True,
        hub_type="f1",
        hub_arguments={"average": average},
    )


COUNT_METRICS = (
    CountMetric("accuracy", "Accuracy", accuracy, "row share", greater_is_better=True, hub_type="accuracy"),
    CountMetric(
        "balanced_accuracy",
        "Balanced accuracy",
        balanced_accuracy,
        "class mean",
        greater_is_better=True,
        hub_type="balanced_accuracy",
    ),
    _f1_metric("macro", "class mean"),
    _f1_metric("micro", "row share"),
    _f1_metric("weighted", "row mean"),
    CountMetric(
        "matthews_correlation",
        "Matthews correlation",
        matthews_correlation,
        "correlation",
        greater_is_better=True,
        hub_type="matthews_correlation",
    ),
)
ROW_METRICS = (RowMetric("log_loss", "Log loss (nats)", row_log_losses, greater_is_better=False, hub_type="log_loss"),)
PROBABILITY_METRICS: tuple[RowMetric | ScoreMetric, ...] = (
    *ROW_METRICS,
    ScoreMetric(
        "ece", "Expected calibration error", expected_calibration_error, greater_is_better=False, hub_type="ece"
    ),
    ScoreMetric("roc_auc", "ROC AUC", _area, greater_is_better=True, hub_type="roc_auc"),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in (*COUNT_METRICS, *PROBABILITY_METRICS)}
"""All metrics by name, in the order of result.json."""
