"""What a search measures before it begins: a few steps of a run that decides, and of a trial."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from hf_finetune.data.augmentation import Operation
from hf_finetune.errors import InputError
from hf_finetune.recipe import Recipe
from hf_finetune.search.bench import Bench
from hf_finetune.search.plan import Pace, too_dear
from hf_finetune.search.retraining import MOST_JUDGED, Cost, measure, with_side

logger = logging.getLogger("hf_finetune.run")


@dataclass(frozen=True)
class Timing:
    """What there is to plan by."""

    steps: int
    """Of the recipe."""
    pace: Pace
    side: int | None
    """Of the pictures of the runs that decide, in pixels; None: they are the recipe's."""
    whole: Cost
    """Of a run on the recipe's pictures: where it is not measured, the least that it can be."""


def timed(
    recipe: Recipe, bench: Bench, usual: tuple[Operation, ...], *, seeds: int, left: Callable[[], float]
) -> Timing:
    """Measure, and choose the pictures of the runs that decide: whole ones, or of half the side where these are too dear.

    Args:
        usual: operations like those to come.
        seeds: pairs of runs that there must be time for.
        left: seconds of the budget that are left now.
    """
    prepared, train = bench.prepared, recipe.train
    batches = prepared.batches(prepared.inputs.lengths(bench.encoded))
    steps = batches.planned(train.num_train_epochs) if train.max_steps < 0 else train.max_steps
    rows, scored = len(prepared.splits.train), min(len(prepared.splits.validation), MOST_JUDGED)

    def measured(recipe: Recipe) -> Cost:
        cost = measure(recipe, usual, rows=rows, rows_per_step=round(rows / batches.steps), scored=scored)
        return replace(cost, head_s=0.0) if bench.one_head else cost

    def dear(cost: Cost) -> bool:
        return too_dear(cost, wanted=steps, seeds=seeds, left_s=left())

    small, side = _of_small_pictures(recipe, bench.small_side, measured), None
    if small is None:
        cost = whole = measured(recipe)
    else:
        # Four times the pixels take no less than four times the time: where that is too much, whole ones are not measured.
        whole = replace(small, row_s=4 * small.row_s, score_s=4 * small.score_s)
        too_long = dear(whole) or dear(whole := measured(recipe))
        cost, side = (small, bench.small_side) if too_long else (whole, None)
    return Timing(steps, Pace(*bench.seconds(usual), cost), side, whole)


def _of_small_pictures(recipe: Recipe, side: int | None, measured: Callable[[Recipe], Cost]) -> Cost | None:
    """None where there are none for this recipe."""
    if side is None:
        return None
    try:
        return measured(with_side(recipe, side))
    except InputError as error:
        logger.info("the runs that decide have whole pictures: %s", error)
        return None
