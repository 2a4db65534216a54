"""Which rows judge the rungs: all of them out of fold, or held-out ones, of which a short time scores a part.

Every network predicts the rows that judge it, and each that becomes the result also those of test. For 1,127 long texts
alone, a head on frozen features took 41 seconds, where the budget was 30.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from datasets import Dataset

from hf_finetune.data.config import Role
from hf_finetune.data.duplicates import dataset_digests
from hf_finetune.data.loading import Splits
from hf_finetune.pipeline.context import Run, RunInput
from hf_finetune.search.budget import Budget
from hf_finetune.search.ladder import decisions
from hf_finetune.search.ladder.costs import MethodCosts, scoring_of
from hf_finetune.search.ladder.folds import choose_folds
from hf_finetune.search.ladder.judgement import FEW_ROWS
from hf_finetune.search.ladder.state import LadderState
from hf_finetune.search.recipe_variant import RecipeVariant


def with_judges(
    base: RecipeVariant, loaded: RunInput, run: Run, costs: MethodCosts, budget: Budget, state: LadderState
) -> tuple[RecipeVariant, RunInput, Run]:
    """Return the recipe, its input and the run of the head with the rows or the folds that judge, which a resumed climb
    knows. All test rows are there, see `with_scored`."""
    if not state.rungs:
        state.scored = rows_within(loaded, run, costs, budget)
    loaded, run = with_scored(loaded, run, state, "validation")
    if not state.rungs:
        methods = decisions.methods_of(base.recipe.search.preset)
        state.folds = choose_folds(base, run, costs, budget, fine_tunes="full" in methods)
    recipe = RecipeVariant(run.recipe).with_folds(state.folds).recipe
    return base.with_folds(state.folds), loaded, run.variant(recipe=recipe)


def rows_within(loaded: RunInput, run: Run, costs: MethodCosts, budget: Budget) -> dict[str, int]:
    """Return how many rows are scored of each split that has more than the time holds.

    Args:
        run: the prepared one of the head, which measures a row.
    """
    splits, has_folds = loaded.data.splits, loaded.context.recipe.evaluate.folds is not None
    # Folds judge all rows.
    large = [name for name in ("validation", "test") if not (has_folds and name == "validation")]
    large = [name for name in large if len(getattr(splits, name) or ()) > FEW_ROWS]
    if not large or math.isinf(budget.seconds) or budget.left_s < decisions.LEAST_NETWORK_S:
        return {}
    fitting = scoring_of(loaded, costs.row(run, budget.left_s), budget.excludable_s).rows_scored(budget.left_s)
    return {name: fitting[name] for name in large if fitting[name] < len(getattr(splits, name))}


def with_scored(loaded: RunInput, run: Run, state: LadderState, name: Role) -> tuple[RunInput, Run]:
    """Return the input of networks, and a run on it, with the rows of a split that they score, and a note on these.

    Classical models of texts score all test rows in no time, and read an input without this.
    """
    splits = loaded.data.splits
    rows, count = getattr(splits, name), state.scored.get(name)
    if count is None or rows is None or count >= len(rows):
        return loaded, run
    part = _drawn(splits, name, rows.select(np.sort(np.random.default_rng(0).permutation(len(rows))[:count])))
    known, data = len(loaded.notes), replace(loaded.data, splits=part)
    notes = (*part.notes, *loaded.notes[len(splits.notes) :])
    # Both have the same Datasets, by which baselines are shared.
    return replace(loaded, data=data, notes=notes), replace(run, data=data, notes=(*notes, *run.notes[known:]))


def _drawn(splits: Splits, name: Role, rows: Dataset) -> Splits:
    """Return splits with a part of one of them."""
    count, duplicates = len(rows), dict(splits.duplicates)
    if duplicates.get(name):
        trained = set(dataset_digests(splits.train))
        duplicates[name] = sum(digest in trained for digest in dataset_digests(rows))
    note = f"{count:,} of {len(getattr(splits, name)):,} {name} rows are scored, drawn at random"
    # Features of training and validation rows are cached by the fingerprint.
    suffix = f" {count} {name} rows" if name == "validation" else ""
    return replace(
        splits,
        **{name: rows},
        fingerprint=splits.fingerprint + suffix,
        duplicates=duplicates,
        notes=(*splits.notes, f"{note}; with a larger --budget all are"),
        drawn=(*splits.drawn, name),
    )
