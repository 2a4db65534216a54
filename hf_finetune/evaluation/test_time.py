"""Several views of each row taken together, and what that is worth.

Legend: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from hf_finetune.evaluation.intervals import bootstrap, paired_difference, verdict


def mean_probabilities(views: Iterable[np.ndarray]) -> np.ndarray:
    """The arithmetic mean of the probabilities of a row's views, shape (N, C).

    Of probabilities, not of logits, so that a view weighs no more than another however certain the model is of it; as
    in Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks", section 4.1.

    Args:
        views: probabilities (N, C) of the same rows in the same order, at least one; held one at a time.
    """
    parts = iter(views)
    # A copy: the first view is compared with the mean afterwards.
    sum_NC, count = np.array(next(parts), dtype=np.float64), 1
    for part_NC in parts:
        sum_NC += part_NC
        count += 1
    return sum_NC / count


def gain(labels: Any, with_views: Any, without: Any, *, resamples: int = 1000) -> dict[str, Any]:
    """What the views change: the metrics without them, and the paired difference of accuracy.

    Args:
        labels: true class ids, shape (N,).
        with_views: probabilities (N, C) by `mean_probabilities`.
        without: probabilities (N, C) of the unchanged rows.
        resamples: of the metrics' intervals, see `intervals.bootstrap`.

    Returns:
        {"without": metrics, "difference": {"value", "low", "high", "n", "verdict"}}; above 0 the views are better.
    """
    labels = np.asarray(labels)
    right, right_without = (np.asarray(p).argmax(-1) == labels for p in (with_views, without))
    difference = paired_difference(right, right_without)
    return {
        "without": {name: i.to_dict() for name, i in bootstrap(labels, without, resamples=resamples).items()},
        "difference": {**difference.to_dict(), "verdict": verdict(difference)},
    }


def describe(views: dict[str, Any]) -> str:
    """One line on the views that `inference.evaluation.evaluate` reports: their gain and their cost."""
    difference = views["difference"]
    value, low, high = (f"{difference[name]:+.3f}" for name in ("value", "low", "high"))
    return (
        f"accuracy with {views['number']} views minus that of the unchanged rows: {value} [{low}, {high}], "
        f"{difference['verdict']}; {views['cost']:.1f} times the seconds"
    )
