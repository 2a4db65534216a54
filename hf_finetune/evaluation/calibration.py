"""Whether the model is as confident as it is right: reliability bins and temperature scaling (arXiv:1706.04599)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from hf_finetune.evaluation.metrics import BINS, as_probabilities, confidence_bin, labels_and_scores

TEMPERATURES = (0.05, 20.0)
"""Where the temperature is looked for."""


@dataclass(frozen=True)
class ReliabilityBin:
    """The rows whose confidence lies in (low, high]."""

    low: float
    high: float
    confidence: float
    """Mean probability of the predicted class."""
    accuracy: float
    """Share of rows predicted right."""
    count: int


def reliability(labels: Any, scores: Any, *, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Confidence against accuracy in bins of equal width; bins without rows are left out.

    Args:
        labels: true class ids, shape (N,).
        scores: probabilities, shape (N, C).
        bins: number of bins between confidence 0 and 1.

    Raises:
        InputError: as `metrics.labels_and_scores`.
    """
    labels, scores = labels_and_scores(labels, scores)
    confidence, right = as_probabilities(scores).max(axis=1), scores.argmax(axis=1) == labels
    which = confidence_bin(confidence, bins)
    return tuple(
        ReliabilityBin(
            low=int(m) / bins,
            high=int(m + 1) / bins,
            confidence=float(confidence[which == m].mean()),
            accuracy=float(right[which == m].mean()),
            count=int((which == m).sum()),
        )
        for m in np.unique(which)
    )


def temperature(labels: Any, logits: Any) -> float:
    """The number to divide logits by, so that their softmax has the least log loss on these rows.

    Fit it on validation rows; it changes no predicted class.

    Args:
        labels: true class ids, shape (N,).
        logits: shape (N, C).

    Returns:
        A temperature within `TEMPERATURES`, above 1 for an over-confident model; 1 if every row is right, since the
        best one would then be 0: certainty, in the next wrong prediction too.

    Raises:
        InputError: as `metrics.labels_and_scores`.
    """
    labels, logits = labels_and_scores(labels, logits)
    if (logits.max(axis=1) == logits[np.arange(len(labels)), labels]).all():
        return 1.0
    return _best_temperature(labels, logits)[0]


def least_log_loss(labels: Any, logits: Any) -> float:
    """The least log loss, in nats, over the temperatures within `TEMPERATURES`, also where every row is right: of the
    same logits it never falls where a row becomes wrong.

    Args:
        labels: true class ids, shape (N,).
        logits: shape (N, C).

    Raises:
        InputError: as `metrics.labels_and_scores`.
    """
    return _best_temperature(*labels_and_scores(labels, logits))[1]


def _best_temperature(labels: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """The temperature and the log loss that it leaves."""
    # Differences to the true class's logit: the loss of a row is then the log of the sum of their exponentials.
    margins = logits - logits[np.arange(len(labels)), labels][:, None]
    highest = margins.max(axis=1, keepdims=True)
    below = margins - highest

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float((highest[:, 0] * scale + np.log(np.exp(below * scale).sum(axis=1))).mean())

    best = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x)), float(best.fun)
