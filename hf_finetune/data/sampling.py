"""Class-balanced sampling: draw the rows of an epoch with rare classes oversampled.

Legend: N rows, C classes.
"""

from typing import Literal

import numpy as np
from datasets import Dataset

from hf_finetune.data.labels import labels_of

Sampling = Literal["none", "balanced", "square_root"]


def class_quotas(counts_C: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Return the number of rows of each class in an epoch. Their sum is the number of rows.

    balanced: the same number of each class. square_root: in proportion to the square root of each class's rows. none:
    unchanged. Quotas are rounded by the method of largest remainders; a class without rows has quota 0.

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
    """Draw the rows of an epoch by `class_quotas`: rows of rare classes are repeated, rows of common ones left out.

    For a class with n rows and quota q, an epoch has every row q // n times, and q % n random rows once more. Unlabeled
    rows occur once.

    Args:
        labels_N: class of each row, shape (N,); -1: unlabeled.
        sampling: see `class_quotas`.
    """

    def __init__(self, labels_N: np.ndarray, sampling: Sampling) -> None:
        counts_C = np.bincount(labels_N[labels_N >= 0])
        self.quota_C = class_quotas(counts_C, sampling)
        # Unlabeled rows sort first.
        ends = np.cumsum([int((labels_N < 0).sum()), *counts_C])
        self._unlabeled, *self._by_class = np.split(np.argsort(labels_N, kind="stable"), ends[:-1])

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the rows of one epoch in random order, shape (N,)."""
        drawn = [self._unlabeled]
        for rows, quota in zip(self._by_class, self.quota_C, strict=True):
            if len(rows):
                repeats, rest = divmod(int(quota), len(rows))
                drawn += [np.tile(rows, repeats), rng.permutation(rows)[:rest]]
        return rng.permutation(np.concatenate(drawn))


def class_draw(rows: Dataset, sampling: Sampling) -> ClassDraw | None:
    """Return the sampler of an epoch's rows, or None if every row is read once."""
    return None if sampling == "none" else ClassDraw(labels_of(rows), sampling)
