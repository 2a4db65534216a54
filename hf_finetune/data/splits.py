"""Stratified and seeded choice of rows: to carve a split, or to train on fewer rows.

Legend: N rows, C classes.
"""

from __future__ import annotations

import numpy as np

from hf_finetune.errors import InputError

# Streams of the split seed: carving the test rows must not change which validation rows are carved from the same rest.
TEST, VALIDATION, TRAIN = 0, 1, 2
# What a search of a policy sets aside to score trials, or pretraining holds back: never both, as search takes no
# pretraining.
SET_ASIDE = 3


def carve(labels_N: np.ndarray, first_N: np.ndarray, *, fraction: float, seed: tuple[int, int]) -> np.ndarray:
    """Choose rows to set aside, each class by its share, repeated inputs all on one side.

    Every class keeps at least one row, so a class of a single row is never carved. A row whose input also occurs with
    another label stays where it is.

    Args:
        labels_N: class of each row.
        first_N: see `duplicates.first_occurrences`.
        fraction: of the distinct inputs, above 0 and below 1; at least one is carved.

    Returns:
        Mask (N,), true for the carved rows.

    Raises:
        InputError: when no class has two different rows.
    """
    rows = np.arange(len(labels_N))
    movable = first_N == rows
    movable[first_N[labels_N != labels_N[first_N]]] = False
    candidates = rows[movable]
    counts_C = np.bincount(labels_N[candidates], minlength=int(labels_N.max()) + 1)
    most_C = np.maximum(counts_C - 1, 0)
    if most_C.sum() == 0:
        raise InputError(f"{len(rows)} rows are too few to set some aside; a class needs two different ones")
    count = min(max(1, round(fraction * int(counts_C.sum()))), int(most_C.sum()))
    return _draw(candidates, labels_N, _shares(counts_C, count, most_C), seed)[first_N]


def subsample(labels_N: np.ndarray, *, count: int, seed: tuple[int, int]) -> np.ndarray:
    """Choose `count` rows, each class by its share but at least one row of each that has any.

    Returns:
        Mask (N,), true for the chosen rows.

    Raises:
        InputError: when there are more classes than that.
    """
    counts_C = np.bincount(labels_N)
    present_C = np.minimum(counts_C, 1)
    if count < present_C.sum():
        raise InputError(
            f"data.max_train_rows {count}: expected one row at least for each of the {present_C.sum()} classes"
        )
    take_C = np.maximum(_shares(counts_C, min(count, len(labels_N)), counts_C), present_C)
    while take_C.sum() > min(count, len(labels_N)):
        take_C[take_C.argmax()] -= 1
    return _draw(np.arange(len(labels_N)), labels_N, take_C, seed)


def at_most_per_class(labels_N: np.ndarray, *, count: int, seed: tuple[int, int]) -> np.ndarray:
    """Choose `count` rows of each class, or all where it has fewer; fewer of one seed are among more of it.

    Returns:
        Mask (N,), true for the chosen rows.
    """
    return _draw(np.arange(len(labels_N)), labels_N, np.minimum(np.bincount(labels_N), count), seed)


def _shares(counts_C: np.ndarray, total: int, most_C: np.ndarray) -> np.ndarray:
    """Divide `total` in proportion to the counts, none above its most, by the largest remainders."""
    exact_C = counts_C * (total / max(1, counts_C.sum()))
    shares_C = np.minimum(np.floor(exact_C).astype(np.int64), most_C)
    by_remainder = np.argsort(shares_C - exact_C, kind="stable")
    while (left := total - int(shares_C.sum())) > 0:
        open_classes = by_remainder[shares_C[by_remainder] < most_C[by_remainder]]
        shares_C[open_classes[:left]] += 1
    return shares_C


def _draw(rows: np.ndarray, labels_N: np.ndarray, take_C: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    """Mask (N,), true for so many of `rows` of each class."""
    shuffled = np.random.default_rng(seed).permutation(rows)
    by_class = shuffled[np.argsort(labels_N[shuffled], kind="stable")]
    starts_C = np.searchsorted(labels_N[by_class], np.arange(len(take_C)))
    mask_N = np.zeros(len(labels_N), dtype=bool)
    for start, count in zip(starts_C, take_C, strict=True):
        mask_N[by_class[start : start + count]] = True
    return mask_N
