"""Where predicted numbers and levels are too high or too low: errors by range of the true values.

Legend: N rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

RANGES = 5
"""Ranges of a target, of about equal frequency."""


@dataclass(frozen=True)
class Residuals:
    """Predicted less true values of the rows of a range of a target, or of a level."""

    target: str
    range: str
    """`2 to 3.5`, or the name of a level."""
    rows: int
    mean: float
    """Above 0: predictions are too high."""
    mean_absolute: float
    low: float
    """The quantile of 5%, and in `high` of 95%."""
    high: float


def residuals_of_target(target: str, targets_N: np.ndarray, predicted_N: np.ndarray) -> Iterator[Residuals]:
    """Yield the residuals of ranges of a target, in rising order."""
    edges = np.unique(np.quantile(targets_N, np.linspace(0, 1, RANGES + 1)[1:-1]))
    groups_N = np.searchsorted(edges, targets_N, side="right")
    for group in np.unique(groups_N):
        values = targets_N[groups_N == group]
        span = f"{values.min():.4g} to {values.max():.4g}" if np.ptp(values) else f"{values[0]:.4g}"
        yield _of_rows(target, span, (predicted_N - targets_N)[groups_N == group])


def residuals_of_levels(names: Sequence[str], labels_N: np.ndarray, levels_N: np.ndarray) -> Iterator[Residuals]:
    """Yield the residuals of each level that has rows, in levels."""
    for level, name in enumerate(names):
        if (rows := labels_N == level).any():
            yield _of_rows("level", name, (levels_N - labels_N)[rows].astype(np.float64))


def _of_rows(target: str, span: str, errors_n: np.ndarray) -> Residuals:
    low, high = np.quantile(errors_n, (0.05, 0.95))
    return Residuals(
        target, span, len(errors_n), float(errors_n.mean()), float(np.abs(errors_n).mean()), float(low), float(high)
    )
