"""Which rows judge the rungs: all of them out of fold, or held-out ones, of which a short time scores a part.

Every network predicts the rows that judge it, and each that becomes the result also those of test. For 1,127 long texts
alone, a head on frozen features took 41 seconds, where the budget was 30.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

import numpy as np
from datasets import Dataset

from hf_finetune.data.loading import Splits
from hf_finetune.pipeline.context import Run, RunInput
from hf_finetune.search.budget import Budget
from hf_finetune.search.ladder import decisions
from hf_finetune.search.ladder.costs import MethodCosts, scoring_of
from hf_finetune.search.ladder.folds import choose_folds
from hf_finetune.search.ladder.judgement import FEW_ROWS
from hf_finetune.search.ladder.state import LadderState
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.utils.messages import listed

Prepared = TypeVar("Prepared", Run, RunInput)


def with_judges(
    base: RecipeVariant, loaded: RunInput, run: Run, costs: MethodCosts, budget: Budget, state: LadderState
) -> tuple[RecipeVariant, RunInput, Run]:
    """Return the recipe, its input and the run of the head with the rows or the folds that judge, which a resumed climb
    knows."""
    if not state.rungs:
        state.scored = rows_within(loaded, run, costs, budget)
    loaded, run = with_scored(loaded, state.scored), with_scored(run, state.scored)
    if not state.rungs:
        methods = decisions.methods_of(base.recipe.search.preset)
        state.folds = choose_folds(base, run, costs, budget, fine_tunes="full" in methods)
    recipe = RecipeVariant(run.recipe).with_folds(state.folds).recipe
    return base.with_folds(state.folds), loaded, run.variant(recipe=recipe)


def rows_within(loaded: RunInput, run: Run, costs: MethodCosts, budget: Budget) -> dict[str, int]:
    """Return how many rows of a split are scored, where the time holds a part of them.

    Args:
        run: the prepared one of the head, which measures a row.
    """
    splits, has_folds = loaded.data.splits, loaded.context.recipe.evaluate.folds is not None
    # Folds judge all rows.
    large = [name for name in ("validation", "test") if not (has_folds and name == "validation")]
    large = [name for name in large if len(getattr(splits, name) or ()) > FEW_ROWS]
    if not large or math.isinf(budget.seconds) or budget.left_s < decisions.LEAST_NETWORK_S:
        return {}
    fitting = scoring_of(loaded, costs.row(run), budget.excludable_s).rows_scored(budget.left_s)
    return {name: fitting[name] for name in large if fitting[name] < len(getattr(splits, name))}


def with_scored(each: Prepared, counts: dict[str, int]) -> Prepared:
    """Return a run or its input with so many rows of these splits, drawn at random, and a note on them."""
    splits: Splits = each.data.splits
    counts = {name: rows for name, rows in counts.items() if rows < len(getattr(splits, name) or ())}
    if not counts:
        return each
    parts = {name: _drawn(getattr(splits, name), rows) for name, rows in counts.items()}
    said = listed([f"{rows:,} of {len(getattr(splits, name)):,} {name} rows" for name, rows in counts.items()])
    note = f"{said} are scored, drawn at random; with a larger --budget all are"
    fingerprint = " ".join([splits.fingerprint, *(f"{rows} {name} rows" for name, rows in counts.items())])
    part = replace(splits, **parts, notes=(*splits.notes, note), fingerprint=fingerprint)
    return replace(each, data=replace(each.data, splits=part), notes=(*each.notes, note))


def _drawn(rows: Dataset, count: int) -> Dataset:
    return rows.select(np.sort(np.random.default_rng(0).permutation(len(rows))[:count]))
