"""Time planning: what trials and final runs cost, and how many of which length fit into the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hf_finetune.errors import InputError
from hf_finetune.search.searchers.base import RUNGS
from hf_finetune.utils.durations import format_duration

RESERVE = 0.1
"""Share of the remaining time that plans of final runs leave free, as measurements are imprecise. What is left of it
goes to further seeds."""
TRIALS_SHARE = 0.4
"""Share of the time after start-up for trials, unless final runs of all the recipe's steps leave more."""
MIN_SEEDS, MAX_SEEDS = 3, 10
"""Pairs of final runs: the fewest that allow a verdict, and the most, however much time there is."""
MIN_STEPS_SHARE = 0.5
"""If final runs on images of full size have time for a smaller share of the recipe's steps, they use half the size."""
MIN_FINAL_STEPS = 4
"""Fewest steps of a final run, unless the recipe has fewer: a shorter run has hardly seen the policy."""
MIN_EVAL_ROWS = 100
"""Fewest validation rows to evaluate final runs on: fewer would leave any difference undecided."""
MIN_TRIAL_STEPS = 4
MANY_TRIALS = 64
"""If there is time for more trials, they get longer instead."""
MAX_TRIALS = 1_000

COSTS_BY_ROW = ("cache_s", "head_s", "row_s", "eval_row_s")
"""The costs of a run that grow with the cost of a row."""


@dataclass(frozen=True)
class RunCost:
    """What a final run costs, in seconds."""

    cache_s: float
    """Cache the activations of frozen layers; once for all runs."""
    head_s: float
    """Fit the head; once per seed, except the first, whose head was fitted for the measurement."""
    fixed_s: float
    row_s: float
    """Train on a row."""
    eval_row_s: float
    """Predict a validation row."""
    rows_per_step: int
    eval_rows: int

    def seconds(self, steps: int) -> float:
        """Return the cost of a run of `steps` steps, without what is done once."""
        return self.fixed_s + steps * self.rows_per_step * self.row_s + self.eval_rows * self.eval_row_s

    def pairs_seconds(self, seeds: int, steps: int) -> float:
        """Return the cost of all pairs of runs, one pair per seed."""
        return self.cache_s + (seeds - 1) * self.head_s + 2 * seeds * self.seconds(steps)

    def scaled(self, factor: float, parts: Sequence[str] = (*COSTS_BY_ROW, "fixed_s")) -> RunCost:
        """Return the cost with some parts multiplied by a factor; all parts for a slower machine."""
        return replace(self, **{name: factor * getattr(self, name) for name in parts})


@dataclass(frozen=True)
class Costs:
    """The costs measured at the start of a search, in seconds."""

    step_s: float
    """A step of a trial."""
    rest_s: float
    """The rest of a trial."""
    run: RunCost

    def trial_s(self, first_rung_steps: int) -> list[float]:
        """Return the cost of a trial on each rung, given the steps of the first."""
        return [self.step_s * first_rung_steps * 2**rung + self.rest_s for rung in range(RUNGS)]

    @property
    def min_trials_s(self) -> float:
        """The cost of the fewest trials that make a search: two on each rung."""
        return 2 * sum(self.trial_s(MIN_TRIAL_STEPS))


@dataclass(frozen=True)
class RunPlan:
    """The length of all final runs."""

    steps: int
    eval_rows: int
    """Validation rows that they predict."""


def plan_runs(cost: RunCost, *, max_steps: int, seeds: int, left_s: float) -> RunPlan | None:
    """Plan as many steps as fit into the remaining time, less its reserve.

    All validation rows are predicted, or as many as fit into a third of that time.

    Args:
        seeds: number of pairs of runs.

    Returns:
        None if not even one step fits.
    """
    time_s = left_s * (1 - RESERVE)
    fit_into_a_third = int(time_s / 3 / (2 * seeds * cost.eval_row_s))
    eval_rows = min(cost.eval_rows, max(MIN_EVAL_ROWS, fit_into_a_third))
    cost = replace(cost, eval_rows=eval_rows)
    fitting = [steps for steps in range(1, max_steps + 1) if cost.pairs_seconds(seeds, steps) <= time_s]
    return RunPlan(fitting[-1], eval_rows) if fitting else None


def too_expensive(cost: RunCost, *, recipe_steps: int, seeds: int, left_s: float) -> bool:
    """Return whether final runs, beside the trials, would have too few steps to use images of full size."""
    plan = plan_runs(cost, max_steps=recipe_steps, seeds=seeds, left_s=left_s * (1 - TRIALS_SHARE))
    return plan is None or plan.steps < MIN_STEPS_SHARE * recipe_steps


def shortest_runs(cost: RunCost, *, recipe_steps: int) -> RunPlan:
    """Return the shortest final runs for which a search is started."""
    return RunPlan(min(MIN_FINAL_STEPS, recipe_steps), min(cost.eval_rows, MIN_EVAL_ROWS))


def runs_seconds(cost: RunCost, plan: RunPlan, seeds: int) -> float:
    """Return the cost of all final runs, with their reserve."""
    return replace(cost, eval_rows=plan.eval_rows).pairs_seconds(seeds, plan.steps) / (1 - RESERVE)


def trials_seconds(costs: Costs, *, recipe_steps: int, seeds: int, budget_s: float, used_s: float) -> float:
    """Return the time for all trials: their share of the remaining time, or whatever final runs of full length leave,
    but no more than the shortest final runs leave.

    Raises:
        InputError: the fewest trials and the shortest final runs do not fit into the budget.
    """
    left_s = budget_s - used_s
    shortest = shortest_runs(costs.run, recipe_steps=recipe_steps)
    shortest_s = runs_seconds(costs.run, shortest, seeds)
    if shortest_s + costs.min_trials_s > left_s:
        enough = format_duration(1.1 * (used_s + shortest_s + costs.min_trials_s))
        raise InputError(
            f"--budget {format_duration(budget_s)}: {2 * seeds} runs of {shortest.steps} "
            f"step{'s' * (shortest.steps > 1)} and a few trials take longer here; expected {enough} or more, or a "
            "cheaper run, such as --method top"
        )
    full_s = runs_seconds(costs.run, RunPlan(recipe_steps, costs.run.eval_rows), seeds)
    return min(max(TRIALS_SHARE * left_s, left_s - full_s), left_s - shortest_s)


def sufficient_budget(costs: Costs, *, recipe_steps: int, seeds: int, used_s: float) -> float:
    """Return the smallest budget for final runs of full length beside the trials' share."""
    full_s = runs_seconds(costs.run, RunPlan(recipe_steps, costs.run.eval_rows), seeds)
    return used_s + max(full_s / (1 - TRIALS_SHARE), full_s + costs.min_trials_s)


def plan_trials(
    costs: Costs, counts: Callable[[int], Sequence[int]], *, requested: int | None, max_steps: int, available_s: float
) -> tuple[int, int]:
    """Return the number of trials, and the steps of those on the first rung.

    Args:
        counts: splits a number of trials by rung.
        requested: number of trials that the user asks for; None for as many as there is time for.
        max_steps: steps of the longest trials.
        available_s: time for all trials, including those without augmentation.
    """
    steps = MIN_TRIAL_STEPS

    def affordable(steps: int) -> int:
        trial_s = costs.trial_s(steps)
        return affordable_trials(counts, trial_s, available_s - sum(trial_s))

    if requested is None:
        while affordable(2 * steps) >= MANY_TRIALS and 2**RUNGS * steps <= max_steps:
            steps *= 2
    trials = max(RUNGS, affordable(steps)) if requested is None else requested
    return min(trials, sum(counts(trials))), steps


def affordable_trials(counts: Callable[[int], Sequence[int]], trial_s: Sequence[float], available_s: float) -> int:
    """Return the largest number of trials that fits into the time; 0 if not even the smallest does.

    Args:
        counts: splits a number of trials by rung.
        trial_s: cost of a trial on each rung.
    """
    affordable = 0
    for trials in range(len(trial_s), MAX_TRIALS + 1):
        if sum(n * s for n, s in zip(counts(trials), trial_s, strict=True)) > available_s:
            break
        affordable = trials
    return affordable
