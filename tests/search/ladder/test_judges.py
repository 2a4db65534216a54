"""Which rows judge the rungs, and how many of them a short time scores."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.small_runs import small_recipe

from hf_finetune.pipeline.context import Run, RunInput
from hf_finetune.pipeline.run import load_input, with_network
from hf_finetune.search.budget import Budget
from hf_finetune.search.ladder import costs, judges
from hf_finetune.search.ladder.costs import MethodCosts
from hf_finetune.search.ladder.judges import rows_within, with_judges, with_scored
from hf_finetune.search.ladder.state import LadderState, RungRecord
from hf_finetune.search.recipe_variant import RecipeVariant


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows judge."""
    monkeypatch.setattr(costs, "FEW_ROWS", 2)
    monkeypatch.setattr(judges, "FEW_ROWS", 2)


@pytest.fixture
def loaded(tmp_path: Path) -> RunInput:
    """Six validation and ten test rows."""
    recipe, test = small_recipe(tmp_path), tmp_path / "test.csv"
    test.write_text("text,label\n" + "".join(f"a test {n},{('bad', 'good')[n % 2]}\n" for n in range(10)))
    return load_input(replace(recipe, data=replace(recipe.data, test=str(test))))


@pytest.fixture
def first(loaded: RunInput) -> Run:
    return with_network(loaded)


def test_a_share_of_the_time_scores_validation_and_test_rows(loaded: RunInput, first: Run) -> None:
    def within(seconds: float, row_s: float = 0.5) -> dict[str, int]:
        return rows_within(loaded, first, MethodCosts(row_s=row_s), Budget(seconds))

    assert (len(loaded.data.splits.validation), len(loaded.data.splits.test or ())) == (6, 10)
    # How many a share of the time holds, `test_decisions` adds up.
    assert within(20) == {"validation": 2, "test": 2}
    # There is time for all, for no network, or no limit.
    assert within(50, 0.01) == within(4) == within(math.inf) == {}


def test_the_rows_that_are_scored_are_drawn_once_and_said(loaded: RunInput, first: Run) -> None:
    first, state = replace(first, notes=(*first.notes, "of a network")), LadderState(Path(), scored={"validation": 3})
    part, run = with_scored(loaded, first, state, "validation")
    splits, before = part.data.splits, loaded.data.splits
    # The same Datasets, by which baselines are shared.
    assert run.data is part.data and splits.test is before.test and splits.train is before.train
    assert len(splits.validation) == 3 and np.isin(splits.validation["row"][:], before.validation["row"][:]).all()
    assert splits.fingerprint != before.fingerprint and splits.drawn == ("validation",)
    note = "3 of 6 validation rows are scored, drawn at random; with a larger --budget all are"
    assert splits.notes == (*before.notes, note) == run.notes[: len(splits.notes)] == part.notes[: len(splits.notes)]
    assert run.notes[len(splits.notes) :] == first.notes[len(before.notes) :]
    assert with_scored(loaded, first, state, "test") == (loaded, first)


def test_copies_of_training_rows_are_counted_among_those_that_are_scored(loaded: RunInput, first: Run) -> None:
    """The card has their number beside that of the rows."""
    splits = loaded.data.splits
    copies = loaded.variant(loaded.context.recipe, replace(splits, test=splits.train, duplicates={"test": 54}))
    _, run = with_scored(copies, first, LadderState(Path(), scored={"test": 20}), "test")
    assert run.data.splits.duplicates == {"test": 20} and run.data.splits.fingerprint == splits.fingerprint


def test_a_resumed_climb_scores_the_rows_of_before(loaded: RunInput, first: Run, tmp_path: Path) -> None:
    base, state = RecipeVariant(loaded.context.recipe), LadderState(tmp_path)
    times = MethodCosts(row_s=0.5), Budget(9)
    _, judged, _ = with_judges(base, loaded, first, *times, state)
    assert state.scored == {"validation": 2, "test": 2} and len(judged.data.splits.validation) == 2
    state.rungs.append(RungRecord("majority", "first"))
    state.save()
    # With more time it would score all of them.
    _, again, run = with_judges(base, loaded, first, MethodCosts(), Budget(math.inf), LadderState.read(tmp_path))
    assert again.data.splits.fingerprint == judged.data.splits.fingerprint == run.data.splits.fingerprint
    # What an earlier version began has no count.
    state.scored = {}
    assert with_judges(base, loaded, first, *times, state)[1] is loaded


def test_folds_judge_all_rows(loaded: RunInput, first: Run) -> None:
    recipe = RecipeVariant(loaded.context.recipe).with_folds(2).recipe
    assert rows_within(loaded.variant(recipe), first, MethodCosts(row_s=0.5), Budget(9)) == {"test": 2}
