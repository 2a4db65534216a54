"""Test-time augmentation: mean predictions over several views of each row, and their gain.

Legend: N rows, C classes.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from hf_finetune.evaluation.intervals import bootstrap
from hf_finetune.evaluation.paired import paired_difference, verdict


def mean_probabilities(views: Iterable[np.ndarray]) -> np.ndarray:
    """Return the arithmetic mean of the probabilities of all views, shape (N, C).

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


def gain(labels: Any, with_views: Any, without: Any, *, resamples: int = 1000) -> dict[str, Any]:
    """Return the metrics without test-time augmentation, and the paired difference of accuracy.

    Args:
        labels: true class ids, shape (N,).
        with_views: probabilities (N, C) from `mean_probabilities`.
        without: probabilities (N, C) of the unchanged rows.
        resamples: see `intervals.bootstrap`.

    Returns:
        {"without": metrics, "difference": {"value", "low", "high", "n", "verdict"}}; above 0 the views are better.
    """
    labels = np.asarray(labels)
    difference = paired_difference(*(np.asarray(p).argmax(-1) == labels for p in (with_views, without)))
    return {
        "without": {name: i.to_dict() for name, i in bootstrap(labels, without, resamples=resamples).items()},
        "difference": {**difference.to_dict(), "verdict": verdict(difference)},
    }


def describe(views: dict[str, Any]) -> str:
    """Describe gain and cost of the views in one line."""
    difference = views["difference"]
    value, low, high = (f"{difference[name]:+z.3f}" for name in ("value", "low", "high"))
    return (
        f"accuracy with {views['number']} views minus that of the unchanged rows: {value} [{low}, {high}], "
        f"{difference['verdict']}; {views['cost']:.1f} times the seconds"
    )
