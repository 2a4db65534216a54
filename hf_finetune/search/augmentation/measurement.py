"""What a search measures before it begins: a few steps of a run that decides, and of a trial."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from hf_finetune.augmentation.compose import Augmentation
from hf_finetune.errors import InputError
from hf_finetune.pipeline.batch_plan import step_batches
from hf_finetune.search.augmentation.proxy_task import ProxyTask
from hf_finetune.search.final_runs import BY_ROWS, MOST_JUDGED, Cost, measure
from hf_finetune.search.searched_recipe import SearchedRecipe
from hf_finetune.search.time_plan import Pace, too_expensive

logger = logging.getLogger("hf_finetune.run")


@dataclass(frozen=True)
class Timing:
    """What there is to plan by."""

    steps: int
    """Of the recipe."""
    pace: Pace
    side: int | None
    """Of the images of the runs that decide, in pixels; None: they are the recipe's."""
    whole: Cost
    """Of a run on the recipe's images, by their pixels where that was not measured."""
    measured: bool
    """Whether it was."""


def measure_time(
    searched: SearchedRecipe,
    proxy: ProxyTask,
    usual: tuple[Augmentation, ...],
    *,
    seeds: int,
    left: Callable[[], float],
) -> Timing:
    """Measure, and choose the images of the runs that decide: whole ones, or of half the side where these are too
    expensive.

    Args:
        usual: operations like those to come.
        seeds: pairs of runs that there must be time for.
        left: seconds of the budget that are left now.
    """
    splits, train = proxy.prepared.data.splits, searched.recipe.train
    batches = step_batches(proxy.prepared, proxy.prepared.data.inputs.lengths(proxy.encoded))
    steps = batches.total_steps(train.num_train_epochs, train.max_steps)
    rows, scored = len(splits.train), min(len(splits.validation), MOST_JUDGED)

    def measured(searched: SearchedRecipe) -> Cost:
        cost = measure(searched, usual, rows=rows, rows_per_step=round(rows / batches.steps), scored=scored)
        return replace(cost, head_s=0.0) if proxy.one_head else cost

    def expensive(cost: Cost) -> bool:
        return too_expensive(cost, whole_steps=steps, seeds=seeds, left_s=left())

    small = None if proxy.sides is None else _of_small_images(searched, proxy.sides[0], measured)
    if proxy.sides is None or small is None:
        cost = measured(searched)
        return Timing(steps, Pace(*proxy.seconds(usual), cost), None, cost, True)
    pixels = (proxy.sides[1] / proxy.sides[0]) ** 2
    # Whole ones are not measured where half of what their pixels ask for is too much already; at a low resolution a run
    # does not train on them.
    is_measured = searched.low_resolution or not expensive(small.times(pixels / 2, BY_ROWS))
    whole = measured(searched) if is_measured else small.times(pixels, BY_ROWS)
    cost, side = (whole, None) if is_measured and not expensive(whole) else (small, proxy.sides[0])
    return Timing(steps, Pace(*proxy.seconds(usual), cost), side, whole, is_measured)


def _of_small_images(searched: SearchedRecipe, side: int, measured: Callable[[SearchedRecipe], Cost]) -> Cost | None:
    """None where there are none for this recipe."""
    try:
        return measured(searched.with_side(side))
    except InputError as error:
        logger.info("the runs that decide have whole images: %s", error)
        return None
