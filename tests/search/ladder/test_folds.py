"""How many folds the time holds, and what they cost, by numbers that a person can add."""

import math
from dataclasses import replace

import pytest

from hf_finetune import Model, Recipe, TextData, Train
from hf_finetune.evaluation.config import Evaluate
from hf_finetune.search.ladder.costs import RungCost, Scoring
from hf_finetune.search.ladder.folds import FoldTimes, with_folds
from hf_finetune.search.recipe_variant import RecipeVariant

SCORING = Scoring(row_s=0.002, rows={"train": 450, "validation": 50}, trained_row=3.5, gate_s=4)
TIMES = FoldTimes(rows=500, epochs=2, scoring=SCORING)


def test_seconds_of_folds() -> None:
    # Four networks of 1.5 s, the features of all rows, a gate, and 2.02 s to write a model of one output; in place of the
    # features those of each fold, and three passes of two epochs, each of 3.5 s.
    assert TIMES.head_s(3) == pytest.approx(13.02)
    assert TIMES.full_s(3, 2) == pytest.approx(15.02 + 3 * 2 * 3.5)


def test_folds_that_fit() -> None:
    # In five folds both take 16 + 55 s, in three 13 + 36, in two 11.5 + 26.5, of which the reserve is a part.
    assert [TIMES.fitting(seconds) for seconds in (math.inf, 78, 77, 54, 53, 42)] == [5, 5, 3, 3, 2, 2]
    # An epoch without folds and head, in 13.5 s; the head alone, in two; not even that.
    assert [TIMES.fitting(seconds) for seconds in (41, 15, 14, 12)] == [None, None, 2, None]
    assert replace(TIMES, fine_tunes=False).fitting(18) == 5
    # With 19 rows of a class a head out of fold says more than an epoch or two; with 29 held-out rows nothing decides.
    for scoring in (replace(SCORING, outputs=26), replace(SCORING, rows={"train": 471, "validation": 29})):
        few = replace(TIMES, scoring=scoring)
        # Two folds with an epoch less; the head alone.
        assert [few.fitting(seconds) for seconds in (35, 33, 24, 12)] == [2, 3, 3, None]


def test_a_rung_costs_as_much_as_all_its_trainings() -> None:
    cost = RungCost(epoch_s=9.0, before_s=2.0, after_s=5.0, steps=30)
    assert with_folds(cost, Evaluate(), train=90, rows=100, row_s=0.01) == cost
    folded = with_folds(cost, Evaluate(folds=5), train=90, rows=100, row_s=0.01)
    # Four fifths of all rows in each fold, and all rows at last: five times 100 rows; six heads of a second.
    assert folded == RungCost(pytest.approx(50.0), pytest.approx(18.0), 5.0, 30, trainings=6)
    # What is cached is cached once, and read by the fits of the head.
    cached = with_folds(replace(cost, once_s=9.0), Evaluate(folds=5), train=90, rows=100, row_s=0.01)
    assert cached == RungCost(pytest.approx(50.0), 12.0, 5.0, 30, trainings=6, once_s=pytest.approx(10.0))
    assert cached.seconds(1) == pytest.approx(77.0) and cached.epochs_within(77.0) == pytest.approx(1.0)


def test_what_looks_at_the_predicted_rows_has_no_folds() -> None:
    variant = RecipeVariant(Recipe(name="a", data=TextData(path="x"), model=Model("m"), method="auto"))
    assert variant.can_have_folds
    assert not RecipeVariant(replace(variant.recipe, train=Train(early_stopping_patience=2))).can_have_folds
