"""Metrics of ordered classes, with the values of scikit-learn and scipy, and their confidence intervals.

A level is the place of a class in the order, from 0. Predicted is the most probable one, as by plain transformers.

Legend: N rows, C levels, R resamples.
"""

from typing import Any

import numpy as np
from scipy import sparse

from hf_finetune.evaluation.intervals import Interval, check_resamples, exact, percentile_bounds, resampled_sums
from hf_finetune.evaluation.metrics import EPSILON, Metric, labels_and_scores
from hf_finetune.evaluation.regression import correlation_bounds, spearman_by_row

METRICS = {
    metric.name: metric
    for metric in (
        Metric("quadratic_kappa", "Quadratic weighted kappa", lowest=-1.0),
        Metric("mae", "Mean absolute error", greater_is_better=False),
        Metric("accuracy", "Accuracy"),
        Metric("within_one", "Share of rows at most one level off"),
        Metric("spearman", "Spearman correlation", lowest=-1.0, hub_name="spearmanr"),
        Metric("log_loss", "Log loss (nats)", greater_is_better=False),
    )
}
"""All metrics by name, in the order of result.json. Errors are in levels, and Spearman's correlation is that of the
expected level."""


def ordinal_metrics(labels_N: Any, scores_NC: Any) -> dict[str, float]:
    """Return every metric of `METRICS` that is defined: kappa and the correlation only where levels vary.

    Args:
        labels_N: true levels.
        scores_NC: probabilities of the levels.

    Raises:
        InputError: see `metrics.labels_and_scores`.
    """
    labels_N, scores_NC = labels_and_scores(labels_N, scores_NC)
    expected_N = scores_NC @ np.arange(scores_NC.shape[1])
    sums = _row_statistics(labels_N, scores_NC).sum(axis=1)[:, None]
    values = {name: float(value[0]) for name, value in _of_sums(sums, len(labels_N)).items()}
    if np.ptp(labels_N) > 0 and np.ptp(expected_N) > 0:
        values["spearman"] = float(spearman_by_row(labels_N, expected_N).mean())
    return {name: values[name] for name in METRICS if name in values and np.isfinite(values[name])}


def ordinal_intervals(
    labels_N: Any, scores_NC: Any, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> dict[str, Interval]:
    """Return `ordinal_metrics` with their intervals.

    Shares of rows have exact ones (Clopper-Pearson), the correlation Fisher's, with the contributions of the rows, and
    the others bias-corrected percentiles of the bootstrap over rows.

    Raises:
        InputError: see `ordinal_metrics`; or fewer than 100 resamples.
    """
    check_resamples(resamples)
    values = ordinal_metrics(labels_N, scores_NC)
    labels_N, scores_NC = labels_and_scores(labels_N, scores_NC)
    rows, statistics = len(labels_N), sparse.csr_array(_row_statistics(labels_N, scores_NC))
    parts = [_of_sums(sums, rows) for sums in resampled_sums(statistics, resamples, seed)]
    intervals = {}
    for name, value in values.items():
        if name in ("accuracy", "within_one"):
            low, high = exact(round(value * rows), rows, confidence)
        elif name == "spearman":
            by_row_N = spearman_by_row(labels_N, scores_NC @ np.arange(scores_NC.shape[1]))
            low, high = correlation_bounds(value, by_row_N, confidence)
        else:
            resampled = np.concatenate([part[name] for part in parts])
            low, high = percentile_bounds(value, resampled[np.isfinite(resampled)], confidence)
        intervals[name] = Interval(value, min(low, value), max(high, value), rows)
    return intervals


def kappa_by_row(labels_N: np.ndarray, levels_N: np.ndarray) -> np.ndarray:
    """Return the linear contribution of each row to the quadratic weighted kappa, shape (N,), whose mean it is.

    Kappa is 1 - D / E with the mean D of squared differences and E, that of independent rows with these levels: the
    mean squares of both, less twice the product of their means (delta method). It is 1 where all levels are one.
    """
    a, b = labels_N.astype(np.float64), levels_N.astype(np.float64)
    differences = (a - b) ** 2
    independent = a**2 + b**2 - 2 * (a * b.mean() + b * a.mean() - a.mean() * b.mean())
    observed, expected = differences.mean(), max(float(independent.mean()), np.finfo(float).tiny)
    return (
        1
        - observed / expected
        - (differences - observed) / expected
        + observed / expected * (independent - expected) / expected
    )


def _row_statistics(labels_N: np.ndarray, scores_NC: np.ndarray) -> np.ndarray:
    """Return the summands of each row, shape (8, N)."""
    a, b = labels_N.astype(np.float64), scores_NC.argmax(axis=1).astype(np.float64)
    off = np.abs(a - b)
    loss = -np.log(np.clip(scores_NC[np.arange(len(a)), labels_N], EPSILON, 1))
    return np.stack([a, b, a**2 + b**2, off**2, off, off == 0, off <= 1, loss])


def _of_sums(sums: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """Return metrics (R,) from sums of row statistics (8, R), all over N rows."""
    a, b, squares, squared, off, equal, near, loss = sums / rows
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "quadratic_kappa": 1 - squared / (squares - 2 * a * b),
            "mae": off,
            "accuracy": equal,
            "within_one": near,
            "log_loss": loss,
        }
