"""Calibration: reliability bins and temperature scaling (arXiv:1706.04599)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from hf_finetune.evaluation.metrics import BINS, as_probabilities, confidence_bin, labels_and_scores

TEMPERATURES = (0.05, 20.0)
"""Bounds of the temperature."""


@dataclass(frozen=True)
class ReliabilityBin:
    """The rows with a confidence in (low, high]."""

    low: float
    high: float
    confidence: float
    """Mean probability of the predicted class."""
    accuracy: float
    """Share of correct rows."""
    count: int


def reliability(labels: Any, scores: Any, *, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Return confidence and accuracy in bins of equal width, without empty bins.

    Args:
        labels: true class ids, shape (N,).
        scores: probabilities, shape (N, C).
        bins: number of bins between confidence 0 and 1.

    Raises:
        InputError: see `metrics.labels_and_scores`.
    """
    labels, scores = labels_and_scores(labels, scores)
    confidence, correct = as_probabilities(scores).max(axis=1), scores.argmax(axis=1) == labels
    which = confidence_bin(confidence, bins)
    return tuple(
        ReliabilityBin(
            low=int(m) / bins,
            high=int(m + 1) / bins,
            confidence=float(confidence[which == m].mean()),
            accuracy=float(correct[which == m].mean()),
            count=int((which == m).sum()),
        )
        for m in np.unique(which)
    )


def temperature(labels: Any, logits: Any) -> float:
    """Fit the temperature that minimizes the log loss of these rows. It does not change predicted classes.

    Args:
        labels: true class ids, shape (N,).
        logits: shape (N, C).

    Returns:
        A temperature within `TEMPERATURES`, above 1 for an over-confident model; 1 if all rows are correct, where the
        log loss has its minimum at temperature 0.

    Raises:
        InputError: see `metrics.labels_and_scores`.
    """
    labels, logits = labels_and_scores(labels, logits)
    if (logits.max(axis=1) == logits[np.arange(len(labels)), labels]).all():
        return 1.0
    return _best_temperature(labels, logits)[0]


def least_log_loss(labels: Any, logits: Any, weights_N: np.ndarray | None = None) -> float:
    """Return the minimum of the log loss, in nats, over the temperatures within `TEMPERATURES`.

    Args:
        labels: true class ids, shape (N,).
        logits: shape (N, C).
        weights_N: weight of each row, shape (N,). None: equal weights.

    Raises:
        InputError: see `metrics.labels_and_scores`.
    """
    return _best_temperature(*labels_and_scores(labels, logits), weights_N)[1]


def _best_temperature(
    labels: np.ndarray, logits: np.ndarray, weights_N: np.ndarray | None = None
) -> tuple[float, float]:
    """Return the best temperature and its log loss."""
    # The loss of a row is the log-sum-exp of its logits' differences to the true class.
    margins = logits - logits[np.arange(len(labels)), labels][:, None]
    highest = margins.max(axis=1, keepdims=True)
    below = margins - highest

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        losses_N = highest[:, 0] * scale + np.log(np.exp(below * scale).sum(axis=1))
        return float(np.average(losses_N, weights=weights_N))

    best = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x)), float(best.fun)
