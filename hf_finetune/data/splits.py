"""Stratified, seeded selection of rows: to hold out a split, or to train on fewer rows.

Legend: N rows, C classes.
"""

import warnings

import numpy as np

from hf_finetune.data.config import Role
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import counted

# Random streams of the split seed: holding out test rows must not change which of the rest are held out for validation.
SEED_STREAMS: dict[Role, int] = {"test": 0, "validation": 1, "train": 2}
# The rows on which augmentation search scores trials, or pretraining its loss; search does not pretrain.
SEED_STREAM_WITHIN_TRAIN = 3
PARTS = 20
"""Into which groups are dealt to hold out some, so that the share of rows is met to a twentieth; more for a smaller
share than that."""


def hold_out(labels_N: np.ndarray, first_N: np.ndarray, *, fraction: float, seed: tuple[int, int]) -> np.ndarray:
    """Select rows to hold out, stratified by class, with all repetitions of an input on the same side.

    At least one row of every class stays, so a class of a single row is never held out. Every class with two different
    rows gives one, even if these are more than `fraction`. A row whose input also occurs with another label stays.

    Args:
        labels_N: class of each row.
        first_N: see `duplicates.first_occurrences`.
        fraction: share of the distinct inputs, above 0 and below 1.

    Returns:
        Mask (N,) of the rows to hold out.

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
        raise InputError(
            f"{counted(len(rows), 'row is', 'rows are')} too few to hold some out; a class needs two different ones"
        )
    count = min(max(1, round(fraction * int(counts_C.sum()))), int(most_C.sum()))
    take_C = _at_least(_shares(counts_C, count, most_C), np.minimum(most_C, 1), count)
    return _draw(candidates, labels_N, take_C, seed)[first_N]


def hold_out_groups(
    labels_N: np.ndarray, groups_N: np.ndarray, *, fraction: float, seed: tuple[int, int]
) -> np.ndarray:
    """Select whole groups to hold out, so that every class has about its share of the held-out rows.

    They are parts of scikit-learn's `StratifiedGroupKFold`. A class keeps at least one group, so the only group of a
    class is never held out.

    Args:
        labels_N: class of each row.
        groups_N: number of the group of each row.
        fraction: share of the rows, above 0 and below 1; to a twentieth, or as near as whole groups allow.

    Returns:
        Mask (N,) of the rows to hold out.

    Raises:
        InputError: no group can be held out.
    """
    pairs_2P = np.unique(np.stack([labels_N, groups_N]), axis=1)
    is_only_P = np.bincount(pairs_2P[0])[pairs_2P[0]] == 1
    movable = np.flatnonzero(~np.isin(groups_N, pairs_2P[1, is_only_P]))
    if len(movable) == 0:
        groups = len(np.unique(groups_N))
        raise InputError(f"{counted(groups, 'group is', 'groups are')} too few to hold some out; a class needs two")
    generator = np.random.default_rng(seed)
    parts = _dealt(labels_N[movable], groups_N[movable], max(PARTS, round(1 / fraction)), generator)
    mask_N, target = np.zeros(len(labels_N), dtype=bool), fraction * len(labels_N)
    # A part that brings the share no nearer, as that of one large group, stays.
    for number in generator.permutation(len(parts)):
        held = int(mask_N.sum())
        if abs(held + len(parts[number]) - target) < abs(held - target):
            mask_N[movable[parts[number]]] = True
    if not mask_N.any():
        mask_N[movable[min(parts, key=len)]] = True
    for gone in np.setdiff1d(labels_N, labels_N[~mask_N]):
        if mask_N[labels_N == gone].all():
            mask_N[groups_N == groups_N[labels_N == gone][0]] = False
    return mask_N


def _dealt(labels_N: np.ndarray, groups_N: np.ndarray, parts: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Deal groups into so many parts at most, stratified by class, and return the rows of each."""
    from sklearn.model_selection import StratifiedGroupKFold

    parts = min(parts, len(np.unique(groups_N)), int(np.bincount(labels_N).max()))
    if parts == 1:
        return [np.flatnonzero(groups_N == group) for group in np.unique(groups_N)]
    kind = StratifiedGroupKFold(parts, shuffle=True, random_state=int(generator.integers(2**31)))
    with warnings.catch_warnings():
        # A class of fewer rows is in as many parts as it has rows.
        warnings.filterwarnings("ignore", message="The least populated class")
        return [rows for _, rows in kind.split(groups_N, labels_N, groups_N) if len(rows)]


def hold_out_tags(hot_NC: np.ndarray, first_N: np.ndarray, *, fraction: float, seed: tuple[int, int]) -> np.ndarray:
    """Select rows to hold out, with every tag by its share, and all repetitions of an input on the same side.

    Iterative stratification (Sechidis et al. 2011, "On the stratification of multi-label data"): the rows of the rarest
    tag are dealt first, each to the side that lacks most of the tag. A tag of a single row stays.

    Args:
        hot_NC: a 0 or 1 for each tag.
        first_N: see `duplicates.first_occurrences`.
        fraction: share of the distinct inputs, above 0 and below 1.

    Returns:
        Mask (N,) of the rows to hold out.

    Raises:
        InputError: there is a single row.
    """
    distinct = np.flatnonzero(first_N == np.arange(len(first_N)))
    if len(distinct) < 2:
        raise InputError(
            f"{counted(len(distinct), 'row is', 'rows are')} too few to hold some out; expected two different ones"
        )
    rows = np.random.default_rng(seed).permutation(distinct)
    hot_nC = hot_NC[rows].astype(np.int64)
    # The first side stays, the second is held out.
    shares = np.array([1 - fraction, fraction])
    lacking_2C, lacking_2 = np.outer(shares, hot_nC.sum(axis=0)), shares * len(rows)
    side_n, left_C = np.full(len(rows), -1), hot_nC.sum(axis=0)

    def deal(place: int, wishes_2: np.ndarray) -> None:
        equal = np.isclose(wishes_2, wishes_2.max())
        side = int(np.where(equal, lacking_2, -np.inf).argmax())
        side_n[place] = side
        lacking_2C[side] -= hot_nC[place]
        lacking_2[side] -= 1
        np.subtract(left_C, hot_nC[place], out=left_C)

    while left_C.any():
        tag = int(np.where(left_C > 0, left_C, np.iinfo(np.int64).max).argmin())
        for place in np.flatnonzero((hot_nC[:, tag] == 1) & (side_n < 0)).tolist():
            deal(place, lacking_2C[:, tag])
    for place in np.flatnonzero(side_n < 0).tolist():
        deal(place, lacking_2)
    if not (side_n == 1).any():
        side_n[-1] = 1
    mask_N = np.zeros(len(first_N), dtype=bool)
    mask_N[rows[side_n == 1]] = True
    return mask_N[first_N]


def subsample_tags(hot_NC: np.ndarray, *, count: int, seed: tuple[int, int]) -> np.ndarray:
    """Select `count` rows with every tag by its share, see `hold_out_tags`.

    Returns:
        Mask (N,) of the selected rows; of all rows if there are no more.
    """
    rows = len(hot_NC)
    if count >= rows:
        return np.ones(rows, dtype=bool)
    mask_N = hold_out_tags(hot_NC, np.arange(rows), fraction=count / rows, seed=seed)
    chosen, others = np.flatnonzero(mask_N), np.flatnonzero(~mask_N)
    rng = np.random.default_rng(seed)
    mask_N[rng.permutation(chosen)[count:]] = False
    mask_N[rng.permutation(others)[: max(0, count - len(chosen))]] = True
    return mask_N


def subsample(labels_N: np.ndarray, *, count: int, seed: tuple[int, int]) -> np.ndarray:
    """Select `count` rows, stratified by class, at least one of each class.

    Returns:
        Mask (N,) of the selected rows.

    Raises:
        InputError: there are more than `count` classes.
    """
    counts_C = np.bincount(labels_N)
    present_C = np.minimum(counts_C, 1)
    if count < present_C.sum():
        raise InputError(
            f"data.max_train_rows {count}: expected one row at least for each of the {present_C.sum()} classes"
        )
    total = min(count, len(labels_N))
    take_C = _at_least(_shares(counts_C, total, counts_C), present_C, total)
    return _draw(np.arange(len(labels_N)), labels_N, take_C, seed)


def at_most_per_class(labels_N: np.ndarray, *, count: int, seed: tuple[int, int]) -> np.ndarray:
    """Select `count` rows of each class, or all if it has fewer. With one seed, fewer rows are a subset of more.

    Returns:
        Mask (N,) of the selected rows.
    """
    return _draw(np.arange(len(labels_N)), labels_N, np.minimum(np.bincount(labels_N), count), seed)


def _shares(counts_C: np.ndarray, total: int, most_C: np.ndarray) -> np.ndarray:
    """Divide `total` in proportion to the counts, each limited to `most_C`, by the method of largest remainders."""
    exact_C = counts_C * (total / max(1, counts_C.sum()))
    shares_C = np.minimum(np.floor(exact_C).astype(np.int64), most_C)
    by_remainder = np.argsort(shares_C - exact_C, kind="stable")
    while (left := total - int(shares_C.sum())) > 0:
        open_classes = by_remainder[shares_C[by_remainder] < most_C[by_remainder]]
        shares_C[open_classes[:left]] += 1
    return shares_C


def _at_least(shares_C: np.ndarray, least_C: np.ndarray, total: int) -> np.ndarray:
    """Raise shares to `least_C`, at the cost of the largest ones while their sum is above `total`."""
    take_C = np.maximum(shares_C, least_C)
    while take_C.sum() > total and (take_C > least_C).any():
        take_C[np.where(take_C > least_C, take_C, -1).argmax()] -= 1
    return take_C


def _draw(rows: np.ndarray, labels_N: np.ndarray, take_C: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    """Return a mask (N,) of `take_C` random rows of each class, drawn from `rows`."""
    shuffled = np.random.default_rng(seed).permutation(rows)
    by_class = shuffled[np.argsort(labels_N[shuffled], kind="stable")]
    starts_C = np.searchsorted(labels_N[by_class], np.arange(len(take_C)))
    mask_N = np.zeros(len(labels_N), dtype=bool)
    for start, count in zip(starts_C, take_C, strict=True):
        mask_N[by_class[start : start + count]] = True
    return mask_N
