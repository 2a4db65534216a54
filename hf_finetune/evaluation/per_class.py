"""Precision, recall and F1 of each class, with confidence intervals.

Shapes: N rows, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_finetune.evaluation.intervals import Interval, wilson
from hf_finetune.evaluation.metrics import Counts, class_counts


@dataclass(frozen=True)
class ClassScores:
    """How well one class is recognized."""

    label: str
    support: int
    """Rows of the class."""
    predicted: int
    """Rows predicted as the class."""
    precision: Interval | None
    """Share of the predicted rows that are of the class. None: the class is never predicted."""
    recall: Interval | None
    """Share of the class's rows that are predicted as it. None: it has no rows."""
    f1: Interval | None
    """Harmonic mean of both. None: the class neither occurs nor is predicted."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of result.json, without the label. An interval that is not defined is None."""
        scores = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        plain = {name: None if score is None else score.to_dict() for name, score in scores.items()}
        return {**plain, "support": self.support, "predicted": self.predicted}


def per_class(
    labels: Any, predicted: Any, names: Sequence[str], *, confidence: float = 0.95
) -> tuple[ClassScores, ...]:
    """Return the scores of each class, in the order of the class ids.

    Each score is a share of rows, so its interval is Wilson's (1927, "Probable inference, the law of succession, and
    statistical inference"), whose coverage is near nominal down to a few rows (Brown, Cai and DasGupta 2001, "Interval
    estimation for a binomial proportion"). A bootstrap would claim certainty for 3 correct rows of 3. F1 is 2 J / (1 +
    J), where J is the share of correct rows among those that are of the class or predicted as it; its bounds are those
    of J (arXiv:2309.14621, "Wilson indirect"). The `n` of an interval counts the rows of its share.

    Args:
        labels: true class ids, shape (N,).
        predicted: predicted class ids, shape (N,).
        names: class names, in the order of the class ids.
        confidence: nominal coverage of the intervals.

    Raises:
        InputError: see `metrics.class_counts`.
    """
    return scores_of_counts(class_counts(labels, predicted, num_labels=len(names)), names, confidence=confidence)


def scores_of_counts(counts: Counts, names: Sequence[str], *, confidence: float = 0.95) -> tuple[ClassScores, ...]:
    """Return the scores of each class or tag from its counts, shape (C,); see `per_class`."""
    precision = _shares(counts.correct, counts.predicted, confidence)
    recall = _shares(counts.correct, counts.support, confidence)
    jaccard = _shares(counts.correct, counts.support + counts.predicted - counts.correct, confidence)
    rows = zip(names, counts.support.tolist(), counts.predicted.tolist(), precision, recall, jaccard, strict=True)
    return tuple(ClassScores(name, n, m, of_m, of_n, _f1(of_both)) for name, n, m, of_m, of_n, of_both in rows)


def class_section(scores: Sequence[ClassScores]) -> dict[str, dict[str, Any]]:
    """Return the scores by label, as in result.json."""
    return {each.label: each.to_dict() for each in scores}


def target_section(scores: Mapping[str, Mapping[str, Interval]]) -> dict[str, dict[str, Any]]:
    """Return the metrics of each target, as in result.json."""
    return {name: {metric: value.to_dict() for metric, value in each.items()} for name, each in scores.items()}


def _shares(correct: np.ndarray, rows: np.ndarray, confidence: float) -> list[Interval | None]:
    values, (low, high) = correct / np.maximum(rows, 1), wilson(correct, rows, confidence)
    cells = zip(values.tolist(), low.tolist(), high.tolist(), rows.tolist(), strict=True)
    return [Interval(value, below, above, n) if n else None for value, below, above, n in cells]


def _f1(jaccard: Interval | None) -> Interval | None:
    if jaccard is None:
        return None
    value, low, high = (2 * j / (1 + j) for j in (jaccard.value, jaccard.low, jaccard.high))
    return Interval(value, low, high, jaccard.n)


def finds_alone(scores: Sequence[ClassScores], others: Sequence[ClassScores]) -> dict[str, dict[str, int]]:
    """Return the classes that a model never predicts and another one finds, with their `rows` and how many of these the
    other one has `right`.

    Args:
        scores, others: those of both on the same rows, in the same order.
    """
    found = {}
    for mine, other in zip(scores, others, strict=True):
        if not mine.predicted and other.recall is not None and other.recall.value > 0:
            found[mine.label] = {"rows": other.support, "right": round(other.recall.value * other.support)}
    return found
