"""How many folds the time holds, and what they cost, by numbers that a person can add."""

import math
from dataclasses import replace

import pytest

from hf_finetune import Model, Recipe, TextData, Train
from hf_finetune.evaluation.config import Evaluate
from hf_finetune.search.ladder.costs import RungCost
from hf_finetune.search.ladder.folds import FoldTimes, with_folds
from hf_finetune.search.recipe_variant import RecipeVariant

TIMES = FoldTimes(rows=500, epochs=2, row_s=0.002, gate_s=10)


def test_seconds_of_folds() -> None:
    # Four heads of 1.5 s and 1 s, and a gate; and three passes of two epochs, each of 3.5 s.
    assert TIMES.head_s(3) == 20
    assert TIMES.full_s(3) == 20 + 3 * 2 * 3.5


def test_folds_that_fit() -> None:
    # In five folds both take 25 + 60 s, of which the reserve is a part.
    assert TIMES.fitting(85) == 3 and TIMES.fitting(93) == 5 and TIMES.fitting(math.inf) == 5
    # The head alone.
    assert TIMES.fitting(60) == 3 and TIMES.fitting(21) is None
    assert replace(TIMES, fine_tunes=False).fitting(30) == 5


def test_a_rung_costs_as_much_as_all_its_trainings() -> None:
    cost = RungCost(epoch_s=9.0, before_s=2.0, after_s=5.0, steps=30)
    assert with_folds(cost, Evaluate(), train=90, rows=100, row_s=0.01) == cost
    folded = with_folds(cost, Evaluate(folds=5), train=90, rows=100, row_s=0.01)
    # Four fifths of all rows in each fold, and all rows at last: five times 100 rows; six heads of a second.
    assert folded == RungCost(pytest.approx(50.0), pytest.approx(18.0), 5.0, 30, trainings=6)


def test_what_looks_at_the_predicted_rows_has_no_folds() -> None:
    variant = RecipeVariant(Recipe(name="a", data=TextData(path="x"), model=Model("m"), method="auto"))
    assert variant.can_have_folds
    assert not RecipeVariant(replace(variant.recipe, train=Train(early_stopping_patience=2))).can_have_folds
