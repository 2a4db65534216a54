"""Class-balanced sampling: draw the rows of an epoch with rare classes oversampled.

A row of several tags counts as one of its rarest tag, by which images are repeated in arXiv:1908.03195, too. Rows
without a tag count as a class of their own.

Legend: N rows, C classes or tags.
"""

from typing import Any, Literal

import numpy as np
from datasets import Dataset

from hf_finetune.data.labels import UNLABELED, is_labeled, labels_of
from hf_finetune.data.ragged import Ragged

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


def classes_of(labels: Any) -> Any:
    """Return the class of each row, shape (N,); -1: unlabeled.

    Args:
        labels: class ids (N,), or a 0 or 1 for each tag (N, C), of which a row counts as its rarest. Those of words
            (`Ragged`) are returned as they are.
    """
    if isinstance(labels, Ragged) or labels.ndim == 1:
        return labels
    labeled_N = is_labeled(labels)
    hot_NC = (labels == 1) & labeled_N[:, None]
    counts_C = hot_NC.sum(axis=0)
    rarest_N = np.where(hot_NC, counts_C, len(labels) + 1).argmin(axis=1)
    return np.where(labeled_N, np.where(hot_NC.any(axis=1), rarest_N, labels.shape[1]), UNLABELED)


def draws_per_row(labels: np.ndarray, sampling: Sampling, classes: int) -> np.ndarray:
    """Return how often an epoch has a row of each class on average, shape (C,), or (C + 1,) for tags.

    Args:
        labels: see `classes_of`; all rows have one.
        classes: C.
    """
    counts_C = np.bincount(classes_of(labels), minlength=classes + (labels.ndim == 2))
    return class_quotas(counts_C, sampling) / np.maximum(counts_C, 1)


def drawn_rows(labels: np.ndarray, sampling: Sampling, classes: int) -> np.ndarray:
    """Return the rows of each class or tag in an epoch, shape (C,), see `draws_per_row`."""
    if labels.ndim == 1:
        return class_quotas(np.bincount(labels, minlength=classes), sampling)
    draws_N = draws_per_row(labels, sampling, classes)[classes_of(labels)]
    return draws_N @ labels


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
    return None if sampling == "none" else ClassDraw(classes_of(labels_of(rows)), sampling)
