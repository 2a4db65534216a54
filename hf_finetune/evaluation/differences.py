"""Paired differences, and what a smaller model loses, as text: in percentage points, unless the metric is no share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NO_SHARES = {"r2": "R²", "quadratic_kappa": "kappa", "spearman": "Spearman's correlation"}
"""Metrics that are no percentages, as texts name them: shown as they are, and limited in hundredths."""


def metric_of(difference: Mapping[str, Any]) -> str:
    """Return the metric of a paired difference; documents of early versions name none, which is accuracy."""
    return str(difference.get("metric", "accuracy"))


def unit(metric: str) -> str:
    """Return the words behind a number: `points of accuracy`, or `of R²`."""
    return f"of {NO_SHARES[metric]}" if metric in NO_SHARES else f"points of {metric}"


def points(difference: Mapping[str, Any], *, decimals: int = 1) -> str:
    """Return a paired difference as `+1.2 points of accuracy [+0.1, +2.3]`, or `+0.012 of R² [+0.001, +0.023]`."""
    value, bounds = change(difference, decimals=decimals)
    return f"{value} {unit(metric_of(difference))} {bounds}"


def change(difference: Mapping[str, Any], *, decimals: int = 1) -> tuple[str, str]:
    """Return a paired difference without its unit as `+1.2`, and its interval as `[+0.1, +2.3]`."""
    factor, decimals = (1, 3) if metric_of(difference) in NO_SHARES else (100, decimals)
    value, low, high = (f"{factor * difference[name]:+z.{decimals}f}" for name in ("value", "low", "high"))
    return value, f"[{low}, {high}]"


def loss(hundredths: float, metric: str) -> str:
    """Return a loss without its unit: `0.80`; of R² `0.008`."""
    return f"{hundredths / 100:z.3f}" if metric in NO_SHARES else f"{hundredths:z.2f}"


def largest_loss(max_loss: float, metric: str) -> str:
    """Return what `--max-loss` allows: `0.5 points of accuracy`, or `0.005 of R²`."""
    return f"{max_loss / 100 if metric in NO_SHARES else max_loss:g} {unit(metric)}"
