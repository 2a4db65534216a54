"""Whether the rungs are judged out of fold: on predictions of all rows, each by a model that was not trained on it.

A tenth of few rows decides no paired test. With folds every rung trains several times, and once more on all rows: that
is the model which may be the result.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset

from hf_finetune.errors import InputError
from hf_finetune.evaluation.config import Evaluate
from hf_finetune.features.baselines import Baseline
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.out_of_fold import all_rows, folds_of
from hf_finetune.search.budget import Budget
from hf_finetune.search.ladder.costs import (
    BUILD_S,
    CLASS_S,
    RESERVE,
    WRITE_S,
    MethodCosts,
    RungCost,
    Scoring,
    scoring_of,
)
from hf_finetune.search.ladder.decisions import LEAST_HELD_OUT
from hf_finetune.search.ladder.judgement import FEW_ROWS
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.tasks.base import Task
from hf_finetune.utils.durations import format_duration

logger = logging.getLogger("hf_finetune.run")
COUNTS = (5, 3, 2)
"""Folds that are tried, the best estimate first."""
FEWEST = 2
"""Folds of too few rows where all epochs of full fine-tuning do not fit: three trainings alone share what is left.
Models of half the rows are judged too low, all of them alike."""
LEAST_OF_CLASS = 20
"""Rows of a class, on average, without which a short fine-tuning does not outweigh the estimate out of fold. On 8
labels of each of 77 classes an epoch or two had .8315, a head in folds, which is fitted to the held-out label, too,
.8402; on 75 of each of 20 fine-tuning had .8085, the head .774 (docs/benchmarks.md#method-auto)."""


@dataclass(frozen=True)
class FoldTimes:
    """What decides how many folds the time holds."""

    rows: int
    """Of training and validation together."""
    epochs: float
    scoring: Scoring
    fine_tunes: bool = True
    """Whether full fine-tuning follows the head."""

    def head_s(self, folds: int) -> float:
        """Return the seconds of a head in each fold and on all rows: they share frozen features, in float32."""
        return (folds + 1) * BUILD_S + self.rows * self.scoring.row_s + self._end_s

    def full_s(self, folds: int, epochs: float) -> float:
        """Return those of full fine-tuning. Each fold fits a head to features of its rows first."""
        row_s = self.scoring.row_s
        around_s = (folds + 1) * BUILD_S + folds * self.rows * row_s + self._end_s
        return around_s + folds * epochs * self.rows * self.scoring.trained_row * row_s

    def seconds(self, folds: int, epochs: float) -> float:
        """Return the seconds of a head and, where there are epochs, of full fine-tuning after it.

        Args:
            folds: 1 for a single training on the training rows.
        """
        return self.head_s(folds) + (self.full_s(folds, epochs) if epochs else 0)

    @property
    def _end_s(self) -> float:
        """Save a model with its card and plots, and verify it."""
        return WRITE_S + CLASS_S * self.scoring.outputs + self.scoring.gate_s

    @property
    def least_s(self) -> float:
        """Seconds of the fewest folds, with an epoch of fine-tuning."""
        return self.seconds(FEWEST, min(1.0, self.epochs) if self.fine_tunes else 0)

    def fitting(self, left_s: float) -> int | None:
        """Return how many folds fit into a time: of all rungs, else the fewest with an epoch of fine-tuning, else of
        the head alone. None: not even these, or an epoch of fine-tuning fits without them. What folds take of its
        epochs is worth more than the estimate: 1,500 rows of 20 classes had .814 in two folds within two minutes, .841
        without. Too few rows are the exception, see `LEAST_OF_CLASS` and `LEAST_HELD_OUT`."""
        usable_s = left_s * (1 - RESERVE)

        def fit(folds: int, epochs: float) -> bool:
            return self.seconds(folds, epochs) <= usable_s

        whole = next((folds for folds in COUNTS if fit(folds, self.epochs if self.fine_tunes else 0)), None)
        if whole is not None:
            return whole
        held_out = self.scoring.rows["validation"]
        is_enough = self.rows >= LEAST_OF_CLASS * self.scoring.outputs and held_out >= LEAST_HELD_OUT
        # It may come straight after a linear model: a head that costs it too much is left.
        if self.fine_tunes and is_enough and self.full_s(1, min(1.0, self.epochs)) <= usable_s:
            return None
        if self.least_s <= usable_s:
            return FEWEST
        return next((folds for folds in COUNTS[1:] if fit(folds, 0)), None)


def choose_folds(base: RecipeVariant, run: Run, costs: MethodCosts, budget: Budget, *, fine_tunes: bool) -> int | None:
    """Return in how many folds the rungs are judged, and say why. None: the validation rows judge.

    Args:
        run: the prepared one of the head.
        costs: measures a row, if the time decides.
        fine_tunes: whether full fine-tuning may follow.
    """
    named, splits = base.recipe.evaluate.folds, run.data.splits
    validation = len(splits.validation)
    if named is not None or validation >= FEW_ROWS or "validation" not in splits.held_out:
        return named
    if run.data.task.has_words or run.context.processes > 1 or not base.can_have_folds:
        return None
    epochs = base.recipe.train.num_train_epochs
    assert epochs is not None, "settled for these rows"
    row_s = 0.0 if math.isinf(budget.seconds) else costs.row(run, budget.left_s)
    scoring, left_s = scoring_of(run, row_s, budget.excludable_s), budget.left_s
    times = FoldTimes(len(splits.train) + validation, epochs, scoring, fine_tunes)
    folds = times.fitting(left_s)
    while folds is not None and not _can_be(run, base.with_folds(folds)):
        folds = folds - 1 if folds > 2 else None
    few = f"{validation} validation rows decide little"
    if folds is None:
        needs_s, left_s = times.least_s / (1 - RESERVE), max(left_s, 1)
        if needs_s <= left_s:
            logger.info("%s; in folds full fine-tuning would have fewer epochs, which cost more than they tell", few)
            return None
        needs, left = format_duration(needs_s), format_duration(left_s)
        logger.info("%s; the rungs in %d folds would take %s, and %s are left", few, FEWEST, needs, left)
    else:
        logger.info("%s: all %d rows judge, in %d folds; the result trains on all of them", few, times.rows, folds)
    return folds


def _can_be(run: Run, variant: RecipeVariant) -> bool:
    """Whether the rows can be parted so."""
    try:
        folds_of(run.variant(recipe=variant.recipe))
    except InputError:
        return False
    return True


def with_folds(cost: RungCost, evaluate: Evaluate, *, train: int, rows: int, row_s: float) -> RungCost:
    """Return the cost of a rung in each fold and on all rows, from that on the training rows.

    Args:
        train, rows: number of training rows, and with those of validation.
        row_s: seconds to predict a row: the head of a fold is fitted anew.
    """
    if evaluate.folds is None:
        return cost
    trainings = trainings_of(evaluate)
    passes = (evaluate.repeats * (evaluate.folds - 1) + 1) * rows / train
    # What is cached is read by the fit of the head, too.
    fit_s = 0.0 if cost.once_s else rows * row_s
    before_s = trainings * (cost.before_s + fit_s)
    return replace(
        cost, epoch_s=cost.epoch_s * passes, before_s=before_s, trainings=trainings, once_s=cost.once_s * rows / train
    )


def trainings_of(evaluate: Evaluate) -> int:
    """Return how often a rung trains."""
    return 1 if evaluate.folds is None else evaluate.repeats * evaluate.folds + 1


def constants_out_of_fold(task: Task, run: Run) -> dict[str, Baseline]:
    """Return the constants of each fold, which are those of the other folds."""
    rows, fold_N = all_rows(run.data.splits), folds_of(run)[0]
    parts = [(np.flatnonzero(fold_N == fold), np.flatnonzero(fold_N != fold)) for fold in np.unique(fold_N)]
    order = np.argsort(np.concatenate([held_out for held_out, _ in parts]))
    fitted = [task.constants(rows.select(others), rows.select(held_out)) for held_out, others in parts]
    return {
        name: Baseline(first.name, np.concatenate([each[name].scores_NC for each in fitted])[order])
        for name, first in fitted[0].items()
    }


def judging_rows(run: Run) -> Dataset:
    """Return the rows that judge."""
    splits = run.data.splits
    return splits.validation if run.recipe.evaluate.folds is None else all_rows(splits)
