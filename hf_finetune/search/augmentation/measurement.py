"""Measuring the costs of trials and final runs before a search, and planning its time."""

import logging
from dataclasses import asdict, dataclass, replace

from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.pipeline.batch_plan import step_batches
from hf_finetune.pipeline.run_folder import plain_disk_errors
from hf_finetune.search import planning
from hf_finetune.search.augmentation.search_run import SearchRun
from hf_finetune.search.final_runs import MAX_EVAL_ROWS, measure
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.utils.durations import format_duration

logger = logging.getLogger("hf_finetune.run")


@dataclass(frozen=True)
class Measurement:
    """Measured costs, and the choices that follow from them."""

    recipe_steps: int
    costs: planning.Costs
    image_size: int | None
    """Side of the images of final runs in pixels; None for the recipe's."""
    full_size: planning.RunCost
    """Cost of a run on the recipe's images; estimated by their pixels if `is_full_size_measured` is false."""
    is_full_size_measured: bool


def measure_costs(run: SearchRun) -> Measurement:
    """Measure costs, and choose the image size of final runs: the recipe's, or half of it if that is too expensive."""
    base, proxy, augment = run.base, run.proxy, run.space.augment(run.space.rand_augment(0.6))
    splits, train = proxy.prepared.data.splits, base.recipe.train
    batches = step_batches(proxy.prepared, proxy.prepared.data.inputs.lengths(proxy.encoded))
    steps = batches.total_steps(train.epochs, train.max_steps)
    rows, eval_rows = len(splits.train), min(len(splits.validation), MAX_EVAL_ROWS)

    def measure_run(variant: RecipeVariant) -> planning.RunCost:
        rows_per_step = round(rows / batches.steps)
        cost = measure(variant, augment, rows=rows, rows_per_step=rows_per_step, eval_rows=eval_rows)
        return replace(cost, head_s=0.0) if proxy.one_head else cost

    def is_expensive(cost: planning.RunCost) -> bool:
        return planning.too_expensive(cost, recipe_steps=steps, seeds=run.min_seeds, left_s=run.budget.left_s)

    half_size = None
    if proxy.sides is not None:
        try:
            half_size = measure_run(base.with_image_size(proxy.sides[0]))
        except InputError as error:
            logger.info("final runs use images of full size: %s", error)
    if proxy.sides is None or half_size is None:
        cost = measure_run(base)
        return Measurement(steps, planning.Costs(*proxy.measure(augment), cost), None, cost, True)
    pixels = (proxy.sides[1] / proxy.sides[0]) ** 2
    # Full size is not measured if even half of the cost that its pixels suggest is too much. With low_resolution it
    # always is, as the first epochs do not use the full size.
    is_measured = base.low_resolution or not is_expensive(half_size.scaled(pixels / 2, planning.COSTS_BY_ROW))
    full_size = measure_run(base) if is_measured else half_size.scaled(pixels, planning.COSTS_BY_ROW)
    use_full_size = is_measured and not is_expensive(full_size)
    cost, side = (full_size, None) if use_full_size else (half_size, proxy.sides[0])
    return Measurement(steps, planning.Costs(*proxy.measure(augment), cost), side, full_size, is_measured)


def plan_time(run: SearchRun) -> None:
    """Measure costs, and plan the time for trials.

    Raises:
        InputError: the budget is too small for the fewest trials and the shortest final runs.
        StoppedBySignal: nothing has been saved yet.
    """
    budget, seeds = run.budget, run.min_seeds
    try:
        with plain_disk_errors(run.folder):
            measured = measure_costs(run)
    except StoppedBySignal:
        raise StoppedBySignal("stopped before there was anything to save") from None
    steps, costs, used_s = measured.recipe_steps, measured.costs, budget.used_s
    trials_s = planning.trials_seconds(costs, recipe_steps=steps, seeds=seeds, budget_s=budget.seconds, used_s=used_s)
    run.plan.update(costs=asdict(costs), recipe_steps=steps, trials_s=trials_s, image_size=measured.image_size)
    logger.info(
        "within %s: trials of policies for at most %s, then final runs, each of full length about %s",
        format_duration(budget.seconds),
        format_duration(trials_s),
        format_duration(costs.run.seconds(steps)),
    )
    if costs.run.eval_rows < planning.MIN_EVAL_ROWS:
        logger.warning(
            "final runs are compared on %d validation rows: fewer than %d seldom decide anything; "
            "--data.validation-fraction holds out more",
            costs.run.eval_rows,
            planning.MIN_EVAL_ROWS,
        )
    _warn_of_short_runs(measured, seeds=seeds, budget_s=budget.seconds, used_s=used_s)


def _warn_of_short_runs(measured: Measurement, *, seeds: int, budget_s: float, used_s: float) -> None:
    def sufficient_s(costs: planning.Costs) -> float:
        return planning.sufficient_budget(costs, recipe_steps=measured.recipe_steps, seeds=seeds, used_s=used_s)

    limits = [] if measured.image_size is None else [f"images of {measured.image_size} pixels a side"]
    if sufficient_s(measured.costs) > budget_s:
        limits.append(f"fewer than the recipe's {measured.recipe_steps} steps")
    if limits:
        logger.warning(
            "final runs will have %s; --budget %s would do for the recipe as it is%s",
            " and ".join(limits),
            format_duration(sufficient_s(replace(measured.costs, run=measured.full_size))),
            "" if measured.is_full_size_measured else ", estimated by the pixels",
        )
