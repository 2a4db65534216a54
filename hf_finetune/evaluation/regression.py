"""Metrics of regression, with the values of scikit-learn and scipy, and their confidence intervals.

Several targets: every metric is the mean over the targets.

Legend: N rows, T targets, R resamples.
"""

import math
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import ndtri
from scipy.stats import rankdata

from hf_finetune.errors import InputError
from hf_finetune.evaluation.intervals import Interval, check_resamples, percentile_bounds, resampled_sums
from hf_finetune.evaluation.metrics import Metric

METRICS = {
    metric.name: metric
    for metric in (
        Metric("r2", "R²", lowest=-math.inf, hub_name="r_squared"),
        Metric("spearman", "Spearman correlation", lowest=-1.0, hub_name="spearmanr"),
        Metric("pearson", "Pearson correlation", lowest=-1.0, hub_name="pearsonr"),
        Metric("mae", "Mean absolute error", greater_is_better=False),
        Metric("rmse", "Root mean squared error", greater_is_better=False),
    )
}
"""All metrics by name, in the order of result.json."""


def regression_metrics(targets: Any, predicted: Any) -> dict[str, float]:
    """Return every metric of `METRICS` that is defined: R² and correlations only where all numbers vary.

    Args:
        targets, predicted: shape (N,) or (N, T).

    Raises:
        InputError: no rows, other shapes, or numbers that are not finite.
    """
    pairs = zip(*(numbers_NT.T for numbers_NT in _checked(targets, predicted)), strict=True)
    values = [_of_target(*pair) for pair in pairs]
    return {name: float(np.mean([each[name] for each in values])) for name in METRICS if all(name in v for v in values)}


def _of_target(targets_N: np.ndarray, predicted_N: np.ndarray) -> dict[str, float]:
    sums = _row_statistics(targets_N, predicted_N).sum(axis=1)[:, None]
    values = {name: float(value[0]) for name, value in _of_sums(sums, len(targets_N)).items()}
    if np.ptp(targets_N) > 0 and np.ptp(predicted_N) > 0:
        values["spearman"] = float(np.corrcoef(rankdata(targets_N), rankdata(predicted_N))[0, 1])
    else:
        del values["pearson"]  # 0 / 0, but for rounding
    return {name: values[name] for name in METRICS if name in values and np.isfinite(values[name])}


def regression_intervals(
    targets: Any, predicted: Any, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> dict[str, Interval]:
    """Return `regression_metrics` with their intervals.

    They are bias-corrected percentiles of the bootstrap over rows; that of Spearman's correlation is Fisher's, with the
    standard error of Bonett and Wright (2000, "Sample size requirements for estimating Pearson, Kendall and Spearman
    correlations"), or of several targets that of `spearman_by_row`.

    Raises:
        InputError: see `regression_metrics`; or fewer than 100 resamples.
    """
    check_resamples(resamples)
    values = regression_metrics(targets, predicted)
    targets_NT, predicted_NT = _checked(targets, predicted)
    (rows, count), pairs = targets_NT.shape, [*zip(targets_NT.T, predicted_NT.T, strict=True)]
    statistics = sparse.csr_array(np.concatenate([_row_statistics(*pair) for pair in pairs]))
    parts = [
        [_of_sums(part, rows) for part in np.split(sums, count)] for sums in resampled_sums(statistics, resamples, seed)
    ]
    intervals = {}
    for name, value in values.items():
        if name == "spearman" and count == 1:
            low, high = _spearman_bounds(value, rows, confidence)
        elif name == "spearman":
            by_row_N = np.mean([spearman_by_row(*pair) for pair in pairs], axis=0)
            low, high = correlation_bounds(value, by_row_N, confidence)
        else:
            resampled = np.concatenate([np.mean([each[name] for each in part], axis=0) for part in parts])
            low, high = percentile_bounds(value, resampled[np.isfinite(resampled)], confidence)
        intervals[name] = Interval(value, min(low, value), max(high, value), rows)
    return intervals


def r2_by_row(targets_NT: np.ndarray, predicted_NT: np.ndarray) -> np.ndarray:
    """Return the linear contribution of each row to the mean R², shape (N,), whose mean it is (delta method).

    R² = 1 - E / T with the sums E of squared errors and T of squared deviations from the mean: row i contributes
    R² + ((1 - R²) t_i - e_i) N / T.
    """
    targets_NT, predicted_NT = (numbers.reshape(len(numbers), -1) for numbers in (targets_NT, predicted_NT))
    errors_NT = (targets_NT - predicted_NT) ** 2
    deviations_NT = (targets_NT - targets_NT.mean(axis=0)) ** 2
    total_T = np.maximum(deviations_NT.sum(axis=0), np.finfo(float).tiny)
    values_T = 1 - errors_NT.sum(axis=0) / total_T
    return (values_T + ((1 - values_T) * deviations_NT - errors_NT) * len(targets_NT) / total_T).mean(axis=1)


def spearman_by_row(one_N: np.ndarray, other_N: np.ndarray) -> np.ndarray:
    """Return the linear contribution of each row to Spearman's correlation, shape (N,), whose mean it is.

    Ranks depend on all rows: the influence of a row (Croux and Dehon 2010, "Influence functions of the Spearman and
    Kendall correlation measures") is its own product of ranks, and that of the ranks which it moves. Equal numbers have
    their mean rank.
    """
    a, b = (rankdata(values) / len(values) for values in (one_N, other_N))
    a, b = a - a.mean(), b - b.mean()

    def moment(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        value = float((x * y).mean())
        moved = x * y + _mean_above(x, y) + _mean_above(y, x)
        return value, moved - moved.mean()

    (ab, moved_ab), (aa, moved_aa), (bb, moved_bb) = moment(a, b), moment(a, a), moment(b, b)
    value = ab / np.sqrt(aa * bb)
    return value + moved_ab / np.sqrt(aa * bb) - value / 2 * (moved_aa / aa + moved_bb / bb)


def _mean_above(values_N: np.ndarray, weights_N: np.ndarray) -> np.ndarray:
    """Return the sum of the weights of the rows above each row, and of half of those equal to it, over N."""
    distinct, groups_N = np.unique(values_N, return_inverse=True)
    sums = np.bincount(groups_N, weights_N, minlength=len(distinct))
    return (sums[::-1].cumsum()[::-1] - sums / 2)[groups_N] / len(values_N)


def correlation_bounds(value: float, by_row_N: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Return Fisher's bounds of a correlation, or of a mean of them, from the contributions of the rows."""
    if len(by_row_N) <= 3 or abs(value) >= 1:
        return (value, value) if len(by_row_N) > 3 else (-1.0, 1.0)
    half = ndtri(0.5 + confidence / 2) * by_row_N.std(ddof=1) / np.sqrt(len(by_row_N)) / (1 - value**2)
    low, high = np.tanh(np.arctanh(value) + np.array([-half, half]))
    return float(low), float(high)


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


def _checked(targets: Any, predicted: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return both as numbers of shape (N, T)."""
    targets, predicted = (np.asarray(values, dtype=np.float64) for values in (targets, predicted))
    if targets.ndim not in (1, 2) or targets.shape != predicted.shape or not targets.size:
        raise InputError(f"predictions: expected one for each of {targets.shape} targets, got {predicted.shape}")
    for name, values in (("targets", targets), ("predictions", predicted)):
        if not np.isfinite(values).all():
            raise InputError(f"{name}: expected finite numbers, got {values[~np.isfinite(values)][0]}")
    return targets.reshape(len(targets), -1), predicted.reshape(len(targets), -1)
