"""Folds: groups stay together, classes are shared out."""

import numpy as np
import pytest

from hf_finetune.data.groups import joined_groups
from hf_finetune.errors import InputError
from hf_finetune.evaluation.folds import fold_numbers
from hf_finetune.evaluation.intervals import Interval, mean_interval


@pytest.mark.parametrize("stratified", [True, False])
def test_a_group_is_in_one_fold(stratified: bool) -> None:
    groups_N, labels_N = np.arange(60) // 3, np.arange(60) // 3 % 2
    fold_N = fold_numbers(groups_N, labels_N if stratified else None, count=5, seed=0)
    assert all(len(set(fold_N[groups_N == group])) == 1 for group in range(20))
    assert np.bincount(fold_N).tolist() == [12] * 5
    if stratified:
        assert [int(labels_N[fold_N == fold].sum()) for fold in range(5)] == [6] * 5
    assert (
        fold_numbers(groups_N, labels_N, count=5, seed=0) != fold_numbers(groups_N, labels_N, count=5, seed=1)
    ).any()


def test_too_few_groups() -> None:
    with pytest.raises(
        InputError, match=r"evaluate\.folds 3: 2 different rows or groups are too few; expected at most 2"
    ):
        fold_numbers(np.array([0, 0, 1]), None, count=3, seed=0)


def test_repeats_are_averaged() -> None:
    assert mean_interval([Interval(0.5, 0.4, 0.6, 10), Interval(0.7, 0.6, 0.9, 10)]) == Interval(0.6, 0.5, 0.75, 10)


def test_a_class_of_few_rows() -> None:
    """It is in as many folds as it has rows; one class at least has a row for each."""
    fold_N = fold_numbers(np.arange(12), np.array([0] * 10 + [1] * 2), count=5, seed=0)
    assert len(set(fold_N[10:])) == 2
    with pytest.raises(InputError, match=r"evaluate\.folds 5: no class has so many rows; expected at most 4"):
        fold_numbers(np.arange(8), np.array([0, 1] * 4), count=5, seed=0)


def test_repeats_of_a_row_join_their_groups() -> None:
    """Two authors of the same text are in one fold, and with them a third who shares a text with one of them."""
    authors_N, texts_N = np.array([0, 0, 1, 1, 2, 3]), np.array([0, 1, 1, 2, 2, 3])
    assert joined_groups(authors_N, texts_N).tolist() == [0, 0, 0, 0, 0, 1]
