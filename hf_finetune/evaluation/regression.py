"""Metrics of regression, with the values of scikit-learn and scipy, and their confidence intervals.

Legend: N rows, R resamples.
"""

from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import ndtri
from scipy.stats import rankdata

from hf_finetune.errors import InputError
from hf_finetune.evaluation.intervals import Interval, percentile_bounds, resampled_sums
from hf_finetune.evaluation.metrics import Metric

FEWEST_RESAMPLES = 100

METRICS = {
    metric.name: metric
    for metric in (
        Metric("r2", "R²", hub_name="r_squared"),
        Metric("spearman", "Spearman correlation", hub_name="spearmanr"),
        Metric("pearson", "Pearson correlation", hub_name="pearsonr"),
        Metric("mae", "Mean absolute error", greater_is_better=False),
        Metric("rmse", "Root mean squared error", greater_is_better=False),
    )
}
"""All metrics by name, in the order of result.json."""


def regression_metrics(targets_N: Any, predicted_N: Any) -> dict[str, float]:
    """Return every metric of `METRICS` that is defined: R² and correlations only where the numbers vary.

    Raises:
        InputError: no rows, other shapes, or numbers that are not finite.
    """
    targets_N, predicted_N = _checked(targets_N, predicted_N)
    sums = _row_statistics(targets_N, predicted_N).sum(axis=1)[:, None]
    values = {name: float(value[0]) for name, value in _of_sums(sums, len(targets_N)).items()}
    if np.ptp(targets_N) > 0 and np.ptp(predicted_N) > 0:
        values["spearman"] = float(np.corrcoef(rankdata(targets_N), rankdata(predicted_N))[0, 1])
    else:
        del values["pearson"]  # 0 / 0, but for rounding
    return {name: values[name] for name in METRICS if name in values and np.isfinite(values[name])}


def regression_intervals(
    targets_N: Any, predicted_N: Any, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> dict[str, Interval]:
    """Return `regression_metrics` with their intervals.

    They are bias-corrected percentiles of the bootstrap over rows; that of Spearman's correlation is Fisher's, with the
    standard error of Bonett and Wright (2000, "Sample size requirements for estimating Pearson, Kendall and Spearman
    correlations").

    Raises:
        InputError: see `regression_metrics`; or fewer than 100 resamples.
    """
    if resamples < FEWEST_RESAMPLES:
        raise InputError(f"resamples: expected {FEWEST_RESAMPLES} or more, got {resamples}")
    targets_N, predicted_N = _checked(targets_N, predicted_N)
    rows, values = len(targets_N), regression_metrics(targets_N, predicted_N)
    statistics = sparse.csr_array(_row_statistics(targets_N, predicted_N))
    parts = [_of_sums(sums, rows) for sums in resampled_sums(statistics, resamples, seed)]
    intervals = {}
    for name, value in values.items():
        if name == "spearman":
            low, high = _spearman_bounds(value, rows, confidence)
        else:
            resampled = np.concatenate([part[name] for part in parts])
            low, high = percentile_bounds(value, resampled[np.isfinite(resampled)], confidence)
        intervals[name] = Interval(value, min(low, value), max(high, value), rows)
    return intervals


def r2_by_row(targets_N: np.ndarray, predicted_N: np.ndarray) -> np.ndarray:
    """Return the linear contribution of each row to R², shape (N,), whose mean is R² (delta method).

    R² = 1 - E / T with the sums E of squared errors and T of squared deviations from the mean: row i contributes
    R² + ((1 - R²) t_i - e_i) N / T.
    """
    errors_N = (targets_N - predicted_N) ** 2
    deviations_N = (targets_N - targets_N.mean()) ** 2
    total = max(float(deviations_N.sum()), np.finfo(float).tiny)
    value = 1 - errors_N.sum() / total
    return value + ((1 - value) * deviations_N - errors_N) * len(targets_N) / total


def _row_statistics(targets_N: np.ndarray, predicted_N: np.ndarray) -> np.ndarray:
    """Return the summands of each row, shape (7, N), around the mean of all rows for accuracy."""
    y, p = targets_N - targets_N.mean(), predicted_N - targets_N.mean()
    return np.stack([y, p, y * y, p * p, y * p, np.abs(y - p), (y - p) ** 2])


def _of_sums(sums: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """Return metrics (R,) from sums of row statistics (7, R), all over N rows."""
    y, p, yy, pp, yp, absolute, squared = sums
    spread_y, spread_p = yy - y * y / rows, pp - p * p / rows
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "r2": 1 - squared / spread_y,
            "pearson": (yp - y * p / rows) / np.sqrt(spread_y * spread_p),
            "mae": absolute / rows,
            "rmse": np.sqrt(squared / rows),
        }


def _spearman_bounds(value: float, rows: int, confidence: float) -> tuple[float, float]:
    if rows <= 3 or abs(value) >= 1:
        return (value, value) if rows > 3 else (-1.0, 1.0)
    half = ndtri(0.5 + confidence / 2) * np.sqrt((1 + value**2 / 2) / (rows - 3))
    low, high = np.tanh(np.arctanh(value) + np.array([-half, half]))
    return float(low), float(high)


def _checked(targets_N: Any, predicted_N: Any) -> tuple[np.ndarray, np.ndarray]:
    targets_N, predicted_N = (np.asarray(values, dtype=np.float64) for values in (targets_N, predicted_N))
    if targets_N.ndim != 1 or targets_N.shape != predicted_N.shape or not targets_N.size:
        raise InputError(f"predictions: expected one for each of {targets_N.shape} targets, got {predicted_N.shape}")
    for name, values in (("targets", targets_N), ("predictions", predicted_N)):
        if not np.isfinite(values).all():
            raise InputError(f"{name}: expected finite numbers, got {values[~np.isfinite(values)][0]}")
    return targets_N, predicted_N
