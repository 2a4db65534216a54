"""Folds for estimates out of fold.

Legend: N rows.
"""

import warnings

import numpy as np

from hf_finetune.errors import InputError
from hf_finetune.utils.messages import counted


def fold_numbers(groups_N: np.ndarray, labels_N: np.ndarray | None, *, count: int, seed: int) -> np.ndarray:
    """Return the fold of each row, shape (N,): rows of a group share one, and folds have about equal shares.

    Args:
        groups_N: a number for each row; rows of the same number are never on both sides.
        labels_N: class of each row, to stratify by. None: sizes alone are balanced.
        count: number of folds.
        seed: of the random order of the groups.

    Raises:
        InputError: there are fewer groups than folds, or each class has fewer rows.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    groups = len(np.unique(groups_N))
    if groups < count:
        raise InputError(
            f"evaluate.folds {count}: {counted(groups, 'different row is', 'different rows or groups are')} too few; "
            f"expected at most {groups}"
        )
    if labels_N is not None and (most := int(np.bincount(labels_N).max())) < count:
        raise InputError(f"evaluate.folds {count}: no class has so many rows; expected at most {most}")
    kind = GroupKFold if labels_N is None else StratifiedGroupKFold
    fold_N = np.zeros(len(groups_N), dtype=np.int64)
    with warnings.catch_warnings():
        # A class of fewer rows is in as many folds as it has rows.
        warnings.filterwarnings("ignore", message="The least populated class")
        splits = kind(count, shuffle=True, random_state=seed).split(np.zeros(len(groups_N)), labels_N, groups_N)
        for number, (_, rows) in enumerate(splits):
            fold_N[rows] = number
    return fold_N
