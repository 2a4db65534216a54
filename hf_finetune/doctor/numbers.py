"""Check the numbers that rows are labeled with.

Legend: N rows.
"""

import numpy as np

from hf_finetune.doctor.findings import Finding, Suspect, diagnose

FENCE = 3.0
"""Quartile ranges beyond the quartiles from which a number is an outlier (Tukey 1977, "Exploratory data analysis": far
out)."""
HEAVY = 6.0
"""Kurtosis from which tails are heavy. That of a normal distribution is 3, of an exponential one 9."""
FEW_VALUES, ROWS_PER_VALUE = 10, 5
"""Number of different values that may be classes, each of so many rows on average."""
MOST_EQUAL = 0.5
"""Share of rows with one and the same value from which it hides the others."""


def examine_numbers(numbers_N: np.ndarray, trained_N: np.ndarray, name: str) -> list[Finding]:
    """Check the numbers of a target.

    Args:
        numbers_N: of all rows.
        trained_N: which of them are training rows, whose distribution counts.
    """
    train_N, rows = numbers_N[trained_N], int(trained_N.sum())
    low, high = np.quantile(train_N, (0.25, 0.75))
    reach = FENCE * (high - low)
    far = np.flatnonzero((numbers_N < low - reach) | (numbers_N > high + reach)) if reach else np.array([], dtype=int)
    far = far[np.argsort(-np.abs(numbers_N[far] - (low + high) / 2), kind="stable")]
    values, counts = np.unique(train_N, return_counts=True)
    most, kurtosis = int(counts.argmax()), _kurtosis(train_N)
    is_few = len(values) <= FEW_VALUES and rows >= ROWS_PER_VALUE * len(values)
    shown = ", ".join(f"{value:g}" for value in values[:FEW_VALUES])
    return [
        diagnose(
            "outliers",
            len(numbers_N),
            [Suspect(i, f"{name} {numbers_N[i]:g}") for i in far.tolist()],
            target=name,
            low=low,
            high=high,
        ),
        diagnose(
            "one_value",
            rows,
            count=int(counts[most] > MOST_EQUAL * rows),
            value=values[most],
            most=counts[most],
            target=name,
        ),
        diagnose("few_values", rows, count=len(values) * is_few, values=shown, target=name),
        diagnose("heavy_tails", rows, count=int(kurtosis > HEAVY and not is_few), kurtosis=kurtosis, target=name),
    ]


def statistics_of(numbers_N: np.ndarray) -> dict[str, float]:
    """Return quantiles, mean and deviation."""
    points = zip(("least", "p5", "median", "p95", "most"), np.quantile(numbers_N, (0, 0.05, 0.5, 0.95, 1)), strict=True)
    shown = {**dict(points), "mean": numbers_N.mean(), "deviation": numbers_N.std()}
    return {name: float(f"{value:.4g}") for name, value in shown.items()}


def _kurtosis(numbers_N: np.ndarray) -> float:
    """Return the fourth standardized moment; 0 of numbers that do not vary."""
    centered_N = numbers_N - numbers_N.mean()
    variance = float((centered_N**2).mean())
    return float((centered_N**4).mean()) / variance**2 if variance > 0 else 0.0
