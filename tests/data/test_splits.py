"""Held-out rows and subsamples."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_finetune.data.duplicates import first_occurrences
from hf_finetune.data.splits import at_most_per_class, hold_out, hold_out_groups, subsample
from hf_finetune.errors import InputError


def test_holding_out_keeps_the_shares() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    mask = hold_out(labels, np.arange(100), fraction=0.2, seed=(0, 0))
    assert np.bincount(labels[mask]).tolist() == [12, 6, 2]


def test_holding_out_is_seeded() -> None:
    labels = np.arange(100) % 2
    masks = [hold_out(labels, np.arange(100), fraction=0.2, seed=s) for s in [(0, 0), (0, 0), (1, 0), (0, 1)]]
    assert (masks[0] == masks[1]).all()
    assert (masks[0] != masks[2]).any() and (masks[0] != masks[3]).any()
    # The rows themselves are pinned: another numpy or another machine must hold out the same.
    assert np.flatnonzero(masks[0])[:5].tolist() == [5, 8, 9, 10, 11]


def test_largest_remainders_get_the_odd_rows() -> None:
    # 15% of 27 rows are 4 (4.05): shares 2.1, 1.3, 0.6 -> 2, 1, 0, and the odd row to the largest remainder.
    labels = np.repeat([0, 1, 2], [14, 9, 4])
    mask = hold_out(labels, np.arange(27), fraction=0.15, seed=(0, 0))
    assert np.bincount(labels[mask], minlength=3).tolist() == [2, 1, 1]


def test_a_rare_class_is_held_out_at_the_cost_of_the_largest() -> None:
    # 10% of 27 rows are 3 (2.7): shares 1.6, 1.0, 0.4 -> 2, 1, 0 by remainders, but the rare class gives a row, too.
    labels = np.repeat([0, 1, 2], [14, 9, 4])
    mask = hold_out(labels, np.arange(27), fraction=0.1, seed=(0, 0))
    assert np.bincount(labels[mask], minlength=3).tolist() == [1, 1, 1]


@settings(max_examples=200, deadline=None)
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=40).filter(lambda counts: max(counts) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
def test_every_class_of_two_rows_is_on_both_sides(counts: list[int], fraction: float, seed: int) -> None:
    """And the split is as large as its fraction, unless the classes of two rows are more."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    mask = hold_out(labels, np.arange(len(labels)), fraction=fraction, seed=(seed, 1))
    held_out_C, stays_C = (np.bincount(labels[m], minlength=len(counts)) for m in (mask, ~mask))
    counts_C = np.array(counts)
    assert (held_out_C[counts_C > 1] > 0).all() and (stays_C[counts_C > 0] > 0).all()
    expected = max(1, round(fraction * int(counts_C.sum())))
    assert mask.sum() == min(max(expected, (counts_C > 1).sum()), np.maximum(counts_C - 1, 0).sum())


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), min_size=2, max_size=60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
def test_repeated_and_ambiguous_inputs_keep_their_classes(
    rows: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    """With repeated inputs, a class is on both sides if two of its inputs have no other label."""
    labels = np.array([label for _, label in rows])
    clear = {
        label: {text for text, _ in rows if {other for t, other in rows if t == text} == {label}}
        for label in set(labels.tolist())
    }
    assume(any(len(texts) > 1 for texts in clear.values()))
    mask = hold_out(labels, first_occurrences([bytes([text]) for text, _ in rows]), fraction=fraction, seed=(seed, 1))
    for label, texts in clear.items():
        assert (labels[~mask] == label).any() and (labels[mask] == label).any() == (len(texts) > 1)
    held_out, stays = ({t for (t, _), m in zip(rows, mask, strict=True) if m == side} for side in (True, False))
    assert held_out.isdisjoint(stays)


def test_a_class_keeps_a_row() -> None:
    labels = np.array([0, 1, 1, 2, 2, 2])
    mask = hold_out(labels, np.arange(6), fraction=0.99, seed=(0, 0))
    assert np.bincount(labels[~mask]).tolist() == [1, 1, 1]
    with pytest.raises(InputError, match="3 rows are too few to hold some out; a class needs two different ones"):
        hold_out(np.array([0, 1, 2]), np.arange(3), fraction=0.5, seed=(0, 0))


@pytest.mark.parametrize("seed", range(5))
def test_repeated_inputs_stay_together(seed: int) -> None:
    digests = [bytes([i % 20]) for i in range(60)]
    first = first_occurrences(digests)
    assert first.tolist() == [i % 20 for i in range(60)]
    mask = hold_out(np.array([i % 2 for i in range(60)]), first, fraction=0.3, seed=(seed, 0))
    held_out = {digests[i] for i in np.flatnonzero(mask)}
    assert len(held_out) == 6 and mask.sum() == 18
    assert held_out.isdisjoint({digests[i] for i in np.flatnonzero(~mask)})


def test_an_input_with_two_labels_is_not_held_out() -> None:
    first = np.array([0, 0, 2, 3, 4, 5])
    for seed in range(10):
        mask = hold_out(np.array([0, 1, 0, 0, 1, 1]), first, fraction=0.5, seed=(seed, 0))
        assert not mask[:2].any() and mask.sum() == 2


def test_subsample() -> None:
    labels = np.repeat([0, 1, 2], [600, 390, 10])
    mask = subsample(labels, count=100, seed=(0, 0))
    assert np.bincount(labels[mask]).tolist() == [60, 39, 1]
    assert np.bincount(labels[subsample(labels, count=3, seed=(0, 0))]).tolist() == [1, 1, 1]
    assert subsample(labels, count=5000, seed=(0, 0)).all()
    with pytest.raises(
        InputError, match=r"data\.max_train_rows 2: expected one row at least for each of the 3 classes"
    ):
        subsample(labels, count=2, seed=(0, 0))


def test_at_most_so_many_of_each_class() -> None:
    """With one seed, fewer rows are a subset of more; another seed draws other rows."""
    labels = np.repeat([0, 1, 2], [600, 390, 10])
    few, more, other = (at_most_per_class(labels, count=n, seed=(s, 2)) for n, s in ((5, 0), (20, 0), (5, 1)))
    assert np.bincount(labels[few]).tolist() == [5, 5, 5] and np.bincount(labels[more]).tolist() == [20, 20, 10]
    assert not (few & ~more).any() and (few != other).any()


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_held_out_whole(seed: int) -> None:
    groups_N = np.repeat(np.arange(100), 5)
    labels_N = groups_N % 4 // 3  # a quarter of the groups are of class 1
    mask_N = hold_out_groups(labels_N, groups_N, fraction=0.1, seed=(seed, 1))
    assert not set(groups_N[mask_N]) & set(groups_N[~mask_N])
    assert 45 <= mask_N.sum() <= 55 and 10 <= labels_N[mask_N].sum() <= 15
    assert (mask_N == hold_out_groups(labels_N, groups_N, fraction=0.1, seed=(seed, 1))).all()
    assert (mask_N != hold_out_groups(labels_N, groups_N, fraction=0.1, seed=(seed + 5, 1))).any()


@pytest.mark.parametrize("seed", range(20))
def test_a_class_of_one_group_stays(seed: int) -> None:
    groups_N, labels_N = np.repeat(np.arange(4), 3), np.array([0, 0, 0, 0, 1, 1, 0, 1, 1, 2, 2, 0])
    mask_N = hold_out_groups(labels_N, groups_N, fraction=0.5, seed=(seed, 0))
    assert 0 < mask_N.sum() <= 6 and not mask_N[9:].any() and {0, 1, 2} == set(labels_N[~mask_N])


@pytest.mark.parametrize("seed", range(20))
def test_classes_of_one_group_leave_the_share_to_the_others(seed: int) -> None:
    # Two groups of class 0 among thirty classes of one group each.
    groups_N = np.concatenate([np.repeat([0, 1], 10), np.repeat(np.arange(2, 32), 5)])
    labels_N = np.maximum(groups_N - 1, 0)
    mask_N = hold_out_groups(labels_N, groups_N, fraction=0.05, seed=(seed, 1))
    assert mask_N.sum() == 10 and (labels_N[mask_N] == 0).all()


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1, 0.3, 0.5, 0.8])
def test_shares_of_many_groups(fraction: float) -> None:
    rows = np.arange(1_000)
    mask_N = hold_out_groups(rows % 3, rows, fraction=fraction, seed=(0, 1))
    assert mask_N.mean() == pytest.approx(fraction, abs=0.002)


@pytest.mark.parametrize("seed", range(20))
def test_two_classes_whose_groups_are_all_drawn_keep_one(seed: int) -> None:
    labels_N, groups_N = np.array([0, 1, 1, 0, 2, 2]), np.array([0, 0, 1, 1, 2, 3])
    mask_N = hold_out_groups(labels_N, groups_N, fraction=0.8, seed=(seed, 1))
    assert mask_N.any() and set(labels_N[~mask_N]) == {0, 1, 2}


@pytest.mark.parametrize("seed", range(5))
def test_a_group_that_is_too_large_stays(seed: int) -> None:
    groups_N = np.concatenate([np.zeros(40, dtype=int), np.arange(1, 61)])
    mask_N = hold_out_groups(np.arange(100) % 2, groups_N, fraction=0.1, seed=(seed, 1))
    assert not mask_N[:40].any() and 5 <= mask_N.sum() <= 15
    # Of two the smaller one is held out, though it is too large.
    assert hold_out_groups(np.arange(100) % 2, np.minimum(groups_N, 1), fraction=0.1, seed=(seed, 1)).sum() == 40


def test_one_group_is_too_few_to_hold_some_out() -> None:
    for groups in ([0] * 6, [0, 0, 0, 1, 1, 1]):
        with pytest.raises(InputError, match=r"too few to hold some out; a class needs two"):
            hold_out_groups(np.repeat([0, 1], 3), np.array(groups), fraction=0.1, seed=(0, 0))
