"""Classification metrics in numpy, with the values of scikit-learn, and their table, `METRICS`.

To add a metric, write its function and a row of the table of its kind (`COUNT_METRICS`, `ROW_METRICS`, `BIN_METRICS`,
`INFLUENCE_METRICS`); its interval, result.json, the card and `evaluate_metrics` follow. Functions of counts and sums
accept trailing axes, so that one formula gives the value and its bootstrap resamples.

Shapes: N rows, C classes, R any trailing axes (resamples).
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from scipy.special import expit

from hf_finetune.data.config import Activation
from hf_finetune.errors import InputError

Average = Literal["macro", "micro", "weighted"]
SUMMARY_METRICS = ("accuracy", "macro_f1", "log_loss")
"""Metrics of baselines and teachers, and of the table that a run prints."""
BINS = 15
"""Confidence bins of the expected calibration error, as in arXiv:1706.04599."""
EPSILON = float(np.finfo(np.float64).eps)
"""Lower limit of probabilities in the log loss, as in scikit-learn."""


@dataclass(frozen=True)
class Counts:
    """Diagonal and marginal sums of the confusion matrix; each array is (C, R)."""

    correct: np.ndarray
    """Correctly predicted rows of each class."""
    support: np.ndarray
    """Rows of each class."""
    predicted: np.ndarray
    """Rows predicted as each class."""


@dataclass(frozen=True)
class Metric:
    """A metric: one row of the table of its task."""

    name: str
    """Key in result.json."""
    title: str
    """Name in a model card."""
    _: KW_ONLY
    greater_is_better: bool = True
    lowest: float = 0.0
    """Least value that there can be. The greatest is 1 where greater is better."""
    hub_average: Average | None = None
    """For an F1 score: its average, by which the Hub distinguishes them."""
    hub_name: str | None = None
    """Type in the Hub's metadata where it is not the name."""

    @property
    def hub_type(self) -> str:
        """Type in the Hub's model-index metadata."""
        return "f1" if self.hub_average else self.hub_name or self.name


@dataclass(frozen=True)
class CountMetric(Metric):
    """A metric of predicted classes."""

    of_counts: Callable[[Counts], np.ndarray]
    """From counts (C, R) to values (R)."""
    interval: Literal["row share", "row mean", "class mean", "correlation"]
    """Kind of confidence interval, see `intervals.bootstrap`. `row share`: the share of correct rows; `row mean` and
    `class mean`: a mean with equal weights for rows or classes; `correlation`: 0 for a guess, 1 for a perfect model."""
    class_rows: Callable[[Counts], np.ndarray] = lambda counts: counts.support
    """For a mean over classes: from counts (C, R) to the rows (C, R) of which the score of a class depends on the share
    of correct ones. Classes without such rows are left out."""
    of_share: Callable[[np.ndarray], np.ndarray] = lambda share: share
    """From that share (C,) to the score of a class (C,)."""


@dataclass(frozen=True)
class RowMetric(Metric):
    """A metric of probabilities that is a mean over rows."""

    of_rows: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """From labels (N,) and probabilities (N, C) to the value of each row (N,)."""

    def value(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        """Return the mean over rows."""
        return float(self.of_rows(labels, probabilities).mean())


@dataclass(frozen=True)
class BinMetric(Metric):
    """A metric of probabilities from 0 (best) to 1 that is a function of sums over bins of rows."""

    bins: int
    of_rows: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """From labels (N,) and probabilities (N, C) to the bin (N,) of each row and its summand (N,)."""
    of_sums: Callable[[np.ndarray, Any], Any]
    """From sums (bins, R) and numbers of rows (R) to values (R)."""

    def value(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        """Return the value of all rows."""
        bins, summands = self.of_rows(labels, probabilities)
        return float(self.of_sums(np.bincount(bins, summands, self.bins), len(labels)))


@dataclass(frozen=True)
class InfluenceMetric(Metric):
    """A metric of probabilities from 0 to 1 whose variance follows from the influence of each row."""

    with_influence: Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray] | None]
    """From labels (N,) and probabilities (N, C) to the value and the influence (N,) of each row, whose sum of squares
    is the value's variance; None where it is not defined."""

    def value(self, labels: np.ndarray, probabilities: np.ndarray) -> float | None:
        """Return the value of all rows."""
        result = self.with_influence(labels, probabilities)
        return None if result is None else result[0]


def class_ids(values: Any, *, name: str, num_labels: int | None = None) -> np.ndarray:
    """Check class ids and return them as an int64 array of shape (N,).

    Args:
        values: class ids, one per row.
        name: of the values, for messages.
        num_labels: number of classes; None: unlimited.

    Raises:
        InputError: no rows, more than one axis, a type other than integer, or an id outside 0 .. num_labels - 1.
    """
    ids = np.asarray(values)
    if ids.ndim == 2 and ids.dtype.kind == "f":
        raise InputError(f"{name}: expected class numbers (N,), got probabilities {ids.shape}; take the argmax first")
    if ids.ndim != 1:
        raise InputError(f"{name}: expected one class id per row, got shape {ids.shape}")
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
    """Check labels and scores, and return labels (N,) as int64 and scores (N, C) as float64.

    Raises:
        InputError: no rows, a NaN or infinite score, fewer than two columns, different lengths, or a label without a
            column.
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
    """Return the probabilities (N, C) of logits (N, C), in float64."""
    exponentials = np.exp(np.asarray(logits, dtype=np.float64) - np.max(logits, axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def activate(logits_NC: np.ndarray, activation: Activation) -> np.ndarray:
    """Return the probabilities or numbers of logits, float64."""
    if activation == "softmax":
        return softmax(logits_NC)
    logits_NC = np.asarray(logits_NC, dtype=np.float64)
    return expit(logits_NC) if activation == "sigmoid" else logits_NC


def as_probabilities(scores: np.ndarray) -> np.ndarray:
    """Check that `scores` (N, C) are probabilities, and return them. Logits are refused, not converted.

    Raises:
        InputError: a score outside [0, 1], or a row that does not sum to 1 within 1%, the precision of bfloat16.
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
    """Count true and predicted class ids, shapes (N,), as `Counts` of shape (C,).

    Args:
        num_labels: number of classes C; None: only classes that occur.

    Raises:
        InputError: see `class_ids`; or different lengths.
    """
    labels = class_ids(labels, name="labels", num_labels=num_labels)
    predicted = class_ids(predicted, name="predictions", num_labels=num_labels)
    _same_length(labels, predicted)
    if num_labels is None:
        names, ids = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
        (labels, predicted), num_labels = np.split(ids, 2), len(names)
    return Counts(
        correct=np.bincount(labels[labels == predicted], minlength=num_labels),
        support=np.bincount(labels, minlength=num_labels),
        predicted=np.bincount(predicted, minlength=num_labels),
    )


def accuracy(counts: Counts) -> np.ndarray:
    """Return the share of correct rows, shape (R)."""
    return counts.correct.sum(axis=0) / counts.support.sum(axis=0)


def balanced_accuracy(counts: Counts) -> np.ndarray:
    """Return the mean recall over classes with rows, shape (R)."""
    recall = counts.correct / np.maximum(counts.support, 1)
    return recall.sum(axis=0) / (counts.support > 0).sum(axis=0)


def class_union(counts: Counts) -> np.ndarray:
    """Return the rows that are of each class or predicted as it, same shape."""
    return counts.support + counts.predicted - counts.correct


def f1(counts: Counts, average: Average) -> np.ndarray:
    """Return the F1 score, shape (R).

    Args:
        counts: shape (C, R).
        average: `macro`: mean over the classes among labels or predictions; `weighted`: mean weighted by rows of each
            class; `micro`: over all rows at once, which equals the accuracy.
    """
    if average == "micro":
        return accuracy(counts)
    occurrences = counts.support + counts.predicted
    score = 2 * counts.correct / np.maximum(occurrences, 1)
    if average == "weighted":
        return (score * counts.support).sum(axis=0) / counts.support.sum(axis=0)
    return score.sum(axis=0) / (occurrences > 0).sum(axis=0)


def matthews_correlation(counts: Counts) -> np.ndarray:
    """Return the correlation of labels and predictions for any number of classes, shape (R); 0 if either is constant.

    Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient".
    """
    support, predicted = counts.support.astype(np.float64), counts.predicted.astype(np.float64)
    rows = support.sum(axis=0)
    covariance = counts.correct.sum(axis=0) * rows - (support * predicted).sum(axis=0)
    variances = (rows**2 - (support**2).sum(axis=0)) * (rows**2 - (predicted**2).sum(axis=0))
    return np.where(variances > 0, covariance / np.sqrt(np.maximum(variances, 1)), 0.0)


def row_log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the cross-entropy of each row (N,), in nats.

    Args:
        labels: class ids, shape (N,), or soft labels, shape (N, C).
        probabilities: shape (N, C).
    """
    if labels.ndim == 2:
        return -(labels * np.log(np.maximum(probabilities, EPSILON))).sum(axis=1)
    return -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], EPSILON))


def confidence_bin(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return the index of the equal-width bin (low, high] of [0, 1] of each confidence; same shape."""
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")


def calibration_gaps(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence bin (N,) of each row, and by how much it is more correct than confident (N,)."""
    confidence = probabilities.max(axis=1)
    return confidence_bin(confidence), (probabilities.argmax(axis=1) == labels) - confidence


def expected_calibration_error(gaps: np.ndarray, rows: Any) -> Any:
    """Return the mean distance of confidence and accuracy over bins, weighted by rows (arXiv:1706.04599), shape (R).

    Args:
        gaps: sums of `calibration_gaps` by bin, shape (bins, R).
        rows: number of rows, shape (R).
    """
    return np.abs(gaps).sum(axis=0) / rows


def roc_auc(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Return the area under the ROC curve and the influence of each row, or None if a class has no rows.

    With two classes: of class 1. With more: mean over the classes, one against the rest.

    Args:
        labels: true classes, shape (N,).
        probabilities: shape (N, C).

    Returns:
        The area, and the influence (N,) of each row, whose sum of squares is the area's variance: DeLong et al. 1988,
        "Comparing the areas under two or more correlated receiver operating characteristic curves".
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
    """Return every metric of `METRICS` by name, except those that are not defined for these labels.

    Args:
        labels: true class ids, shape (N,).
        scores: probabilities, shape (N, C).

    Raises:
        InputError: see `labels_and_scores` and `as_probabilities`.
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
    """Return the share of the sorted `others` below each of `values`; ties count half."""
    below = np.searchsorted(others, values, side="left") + np.searchsorted(others, values, side="right")
    return below / (2 * len(others))


COUNT_METRICS = (
    CountMetric("accuracy", "Accuracy", accuracy, "row share"),
    CountMetric("balanced_accuracy", "Balanced accuracy", balanced_accuracy, "class mean"),
    CountMetric(
        "macro_f1",
        "Macro F1",
        partial(f1, average="macro"),
        "class mean",
        class_union,
        lambda share: 2 * share / (1 + share),
        hub_average="macro",
    ),
    CountMetric("micro_f1", "Micro F1", partial(f1, average="micro"), "row share", hub_average="micro"),
    CountMetric("weighted_f1", "Weighted F1", partial(f1, average="weighted"), "row mean", hub_average="weighted"),
    CountMetric("matthews_correlation", "Matthews correlation", matthews_correlation, "correlation", lowest=-1.0),
)
ROW_METRICS = (RowMetric("log_loss", "Log loss (nats)", row_log_losses, greater_is_better=False),)
BIN_METRICS = (
    BinMetric(
        "ece",
        "Expected calibration error",
        BINS,
        calibration_gaps,
        expected_calibration_error,
        greater_is_better=False,
    ),
)
INFLUENCE_METRICS = (InfluenceMetric("roc_auc", "ROC AUC", roc_auc),)
PROBABILITY_METRICS: tuple[RowMetric | BinMetric | InfluenceMetric, ...] = (
    *ROW_METRICS,
    *BIN_METRICS,
    *INFLUENCE_METRICS,
)
METRICS = {metric.name: metric for metric in (*COUNT_METRICS, *PROBABILITY_METRICS)}
"""All metrics by name, in the order of result.json."""
