"""Test-time augmentation: mean predictions over several views of each row.

Legend: N rows, C classes.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np


def mean_probabilities(views: Iterable[np.ndarray]) -> np.ndarray:
    """Return the arithmetic mean of the probabilities, or numbers, of all views, shape (N, C).

    A mean of probabilities, not of logits, gives all views the same weight, as in Krizhevsky et al. 2012, "ImageNet
    classification with deep convolutional neural networks", section 4.1.

    Args:
        views: probabilities (N, C) of the same rows in the same order, at least one; read one at a time.
    """
    parts = iter(views)
    # A copy, as callers compare the first view with the mean.
    sum_NC, count = np.array(next(parts), dtype=np.float64), 1
    for part_NC in parts:
        sum_NC += part_NC
        count += 1
    return sum_NC / count


def describe(views: dict[str, Any]) -> str:
    """Describe gain and cost of the views in one line."""
    difference = views["difference"]
    value, low, high = (f"{difference[name]:+z.3f}" for name in ("value", "low", "high"))
    metric = difference.get("metric", "accuracy")
    return (
        f"{metric} with {views['number']} views minus that of the unchanged rows: {value} [{low}, {high}], "
        f"{difference['verdict']}; {views['cost']:.1f} times the seconds"
    )
