"""Class-balanced sampling: which rows make an epoch when rare classes come more often than they occur.

Legend: N rows, C classes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from datasets import Dataset

Sampling = Literal["none", "balanced", "square_root"]


def class_quotas(counts_C: np.ndarray, sampling: Sampling) -> np.ndarray:
    """How many rows of each class an epoch has; together as many as there are.

    balanced: the same number of each class. square_root: in the proportion of the roots of the classes' rows. none: as
    they are. Quotas are rounded by largest remainder; a class without rows stays without.

    Args:
        counts_C: rows of each class, shape (C,).

    Returns:
        Shape (C,), int64.
    """
    weight_C = {
        "none": counts_C.astype(np.float64),
        "balanced": (counts_C > 0).astype(np.float64),
        "square_root": np.sqrt(counts_C),
    }[sampling]
    exact_C = counts_C.sum() * weight_C / weight_C.sum()
    quota_C = np.floor(exact_C).astype(np.int64)
    missing = int(counts_C.sum() - quota_C.sum())
    quota_C[np.argsort(-(exact_C - quota_C), kind="stable")[:missing]] += 1
    return quota_C


class ClassDraw:
    """Draws the rows of an epoch by `class_quotas`: rows of rare classes come several times, some of common ones not.

    A class with n rows and a quota q gives every row q // n times, and q % n of its rows, drawn anew for each epoch,
    once more. So a row comes at most once more than another of its class, and over the epochs all have their turn. Rows
    without a label (-1) come once each.

    Args:
        labels_N: class of each row, shape (N,); -1: none.
        sampling: see `class_quotas`.
    """

    def __init__(self, labels_N: np.ndarray, sampling: Sampling) -> None:
        counts_C = np.bincount(labels_N[labels_N >= 0])
        self.quota_C = class_quotas(counts_C, sampling)
        # Those without a label come first in this order.
        ends = np.cumsum([int((labels_N < 0).sum()), *counts_C])
        self._unlabeled, *self._by_class = np.split(np.argsort(labels_N, kind="stable"), ends[:-1])

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        """Rows of one epoch in random order, shape (N,)."""
        drawn = [self._unlabeled]
        for rows, quota in zip(self._by_class, self.quota_C, strict=True):
            if len(rows):
                times, more = divmod(int(quota), len(rows))
                drawn += [np.tile(rows, times), rng.permutation(rows)[:more]]
        return rng.permutation(np.concatenate(drawn))


def class_draw(rows: Dataset, sampling: Sampling) -> ClassDraw | None:
    """What draws the epochs of labeled rows; None where every row comes once."""
    return None if sampling == "none" else ClassDraw(np.asarray(rows["label"][:]), sampling)
