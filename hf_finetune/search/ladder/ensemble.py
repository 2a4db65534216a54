"""An ensemble of rungs, and what teaches it to one network: the last rung, with `--ensemble`.

No stock class holds several models, so an ensemble is no result. It is measured on the rows that judge; where it is
better than the best rung, a student of its members, who teach their mean probabilities, is the next rung.

Legend: N rows, C outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hf_finetune.config.rules import check
from hf_finetune.data.loading import Splits
from hf_finetune.errors import InputError
from hf_finetune.pipeline.check import check_teachers
from hf_finetune.pipeline.context import RunInput
from hf_finetune.pipeline.teacher_predictions import build_teachers
from hf_finetune.search.ladder import decisions
from hf_finetune.search.ladder.costs import RungCost, Scoring
from hf_finetune.search.ladder.judgement import compare
from hf_finetune.search.ladder.standing import Standing
from hf_finetune.search.ladder.state import RungRecord
from hf_finetune.search.recipe_variant import RecipeVariant, SingleMethod

logger = logging.getLogger("hf_finetune.run")
PIPELINE = "classical/pipeline.skops"


@dataclass(frozen=True)
class Ensemble:
    """Rungs whose mean is better than the best one of them, or why there are none."""

    reason: str
    teachers: tuple[str, ...] = ()
    """What distillation takes: folders of networks, and pipelines of scikit-learn. Empty: there is no ensemble."""


def find_ensemble(standing: Standing, splits: Splits) -> Ensemble:
    """Return the rungs whose mean scores are better than those of the best rung by the paired test of the climb."""
    task, state, best = standing.task, standing.state, standing.state.best
    if task.has_words:
        return Ensemble("left: tags of words have no ensemble")
    if state.folds is not None:
        return Ensemble("left: the models of the rungs were trained on all rows, so that no row could judge a student")
    members = _members(standing, splits)
    if best is None or best.name not in members:
        return Ensemble("left: the best model so far cannot be a teacher")
    labels, scores = standing.labels, {name: standing.scores[name] for name in members}

    def loss(scores_NC: np.ndarray) -> float:
        values = task.values(labels, scores_NC)
        return values.get("log_loss", -values[task.judged_by])

    chosen = select(scores, loss)
    if len(chosen) < 2:
        return Ensemble(f"left: no mean with another model has a lower loss than {chosen[0]}")
    mean_NC = np.mean([scores[name] for name in chosen], axis=0)
    best_NC = standing.scores[best.name]
    found = compare(task, labels, mean_NC, best_NC, against=best.name, comparisons=state.comparisons_left)
    difference, names = found.difference, " + ".join(chosen)
    gain = f"{task.judged_by} {difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    if found.verdict != "better":
        return Ensemble(f"left: the mean of {names} is not better than {best.name} by the paired test, {gain}")
    return Ensemble(f"the mean of {names} is better than {best.name}, {gain}", tuple(members[n] for n in chosen))


def _members(standing: Standing, splits: Splits) -> dict[str, str]:
    """Return what distillation takes as teacher, by the name of the rung."""
    # Pipelines teach classes of single texts, which they read alone.
    alone = set(splits.columns) <= {"text", "label"} and "text" in splits.columns
    names = (*decisions.NETWORKS, *(["linear"] if alone and standing.task.has_classes else []))
    members = {}
    for rung in standing.state.rungs:
        if rung.name in names and rung.folder is not None:
            folder = standing.state.folder / rung.folder
            members[rung.name] = str(folder / PIPELINE if rung.name == "linear" else folder)
    return members


def select(scores: Mapping[str, np.ndarray], loss: Callable[[np.ndarray], float]) -> Sequence[str]:
    """Return the models whose mean has the least loss, by forward selection.

    As "Ensemble selection from libraries of models" (Caruana et al., 2004), but each model once, as teachers are.

    Args:
        scores: (N, C), by model.
        loss: of scores (N, C).
    """
    chosen: list[str] = []
    least = np.inf
    while rest := [name for name in scores if name not in chosen]:
        losses = {name: loss(np.mean([scores[n] for n in (*chosen, name)], axis=0)) for name in rest}
        best = min(losses, key=lambda name: losses[name])
        if losses[best] >= least:
            break
        least = losses[best]
        chosen.append(best)
    return chosen


def with_teachers(base: RecipeVariant, loaded: RunInput, teachers: Sequence[str]) -> tuple[RecipeVariant, RunInput]:
    """Return the recipe and the input of a student.

    Raises:
        InputError: the recipe has what no teacher allows, or one cannot be loaded.
    """
    variant = base.with_teachers(tuple(teachers))
    check(variant.for_rung("full").recipe)
    context = replace(loaded.context, recipe=variant.recipe)
    built = build_teachers(context, loaded.data)
    check_teachers(built, context, loaded.data)
    return variant, replace(loaded, context=context, teachers=built)


@dataclass(frozen=True)
class Student:
    """A network that learns from an ensemble, and how long it trains."""

    plan: decisions.RungPlan
    base: RecipeVariant
    loaded: RunInput


def plan_student(
    standing: Standing,
    base: RecipeVariant,
    loaded: RunInput,
    cost: Callable[[SingleMethod], RungCost],
    scoring: Scoring,
) -> Student | None:
    """Return the student of the rungs, if their ensemble is better than the best one and there is time; else record why
    there is none.

    Args:
        cost: see `decisions.weigh`.
        scoring: what its teachers cost.
    """
    ensemble = find_ensemble(standing, loaded.data.splits)
    plan = decisions.RungPlan(ensemble.reason)
    if ensemble.teachers:
        read_s = len(ensemble.teachers) * sum(scoring.rows.values()) * scoring.row_s
        left_s, epochs = standing.budget.left_s - read_s, base.recipe.train.epochs
        plan = decisions.weigh("full", cost, left_s=left_s, epochs=epochs)
    if plan.epochs is not None:
        try:
            student = Student(plan, *with_teachers(base, loaded, ensemble.teachers))
        except InputError as error:
            plan = decisions.RungPlan(f"left: {error}")
        else:
            logger.info("student: %s; %s", ensemble.reason, plan.reason)
            return student
    standing.record(RungRecord("student", plan.reason))
    return None
