"""What there is time for: how long the trials take together, how long the runs that decide are, and how many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hf_finetune.errors import InputError
from hf_finetune.search.budget import affordable, format_duration
from hf_finetune.search.final_runs import Cost
from hf_finetune.search.searchers.base import RUNGS

RESERVE = 0.1
"""Of the time left, kept back whenever runs are planned, for what no measurement knew of. What is not needed of it goes
to further seeds."""
TRIALS_SHARE = 0.4
"""Of the time after the start that trials may take, beside what runs of all the recipe's steps would leave."""
FEWEST_SEEDS = 3
"""Runs of each side that a verdict needs."""
WORTH_WHOLE = 0.5
"""Of the recipe's steps: where runs on whole images have time for fewer, they are made on images of half the side."""
MOST_SEEDS = 10
"""However much time there is."""
FEWEST_STEPS = 4
"""Of runs that decide, unless the recipe has fewer, that a search is begun for: below, a policy has hardly been
seen."""
LEAST_JUDGED = 100
"""Validation rows: fewer would leave any difference undecided."""
LEAST_STEPS = 4
"""Of the shortest trials."""
ENOUGH_TRIALS = 64
"""With time for more than so many, trials are longer instead."""


@dataclass(frozen=True)
class Pace:
    """What was measured at the start, in seconds."""

    step_s: float
    """A step of a trial."""
    rest_s: float
    """The rest of a trial."""
    run: Cost

    def rungs(self, least: int) -> list[float]:
        """Trials on each rung, the lowest of so many steps."""
        return [self.step_s * least * 2**rung + self.rest_s for rung in range(RUNGS)]

    @property
    def fewest(self) -> float:
        """The fewest trials that a search can do with: two on each rung."""
        return 2 * sum(self.rungs(LEAST_STEPS))


@dataclass(frozen=True)
class Runs:
    """The runs that decide, each seed once with the policy and once without."""

    steps: int
    judged: int
    """Validation rows that they predict."""


def planned_runs(cost: Cost, *, most: int, seeds: int, left_s: float) -> Runs | None:
    """As many steps as fit into the time left without its reserve.

    Validation rows are all judged, or as many as a third of that time is enough for.

    Args:
        most: steps of a run.
        seeds: of each side.

    Returns:
        None where not even one step fits.
    """
    time_s = left_s * (1 - RESERVE)
    in_a_third = int(time_s / 3 / (2 * seeds * cost.score_s))
    judged = min(cost.scored, max(LEAST_JUDGED, in_a_third))
    shorter = replace(cost, scored=judged)
    fitting = [steps for steps in range(1, most + 1) if shorter.pairs(seeds, steps) <= time_s]
    return Runs(fitting[-1], judged) if fitting else None


def too_expensive(cost: Cost, *, whole_steps: int, seeds: int, left_s: float) -> bool:
    """Whether runs that decide would have too few of the recipe's steps, beside the trials' share, to be made on whole
    images where smaller ones will do."""
    runs = planned_runs(cost, most=whole_steps, seeds=seeds, left_s=left_s * (1 - TRIALS_SHARE))
    return runs is None or runs.steps < WORTH_WHOLE * whole_steps


def shortest_runs(cost: Cost, *, whole_steps: int) -> Runs:
    """The least that a search is begun for, of a recipe with so many steps."""
    return Runs(min(FEWEST_STEPS, whole_steps), min(cost.scored, LEAST_JUDGED))


def seconds_of(cost: Cost, runs: Runs, seeds: int) -> float:
    """What the runs take together, with their reserve."""
    return replace(cost, scored=runs.judged).pairs(seeds, runs.steps) / (1 - RESERVE)


def trial_seconds(pace: Pace, *, whole_steps: int, seeds: int, budget_s: float, used_s: float) -> float:
    """What trials may take together: their share of the time left, or all that the recipe's own runs leave of it; and
    no more than the shortest runs do.

    Raises:
        InputError: the fewest trials and the shortest runs do not fit.
    """
    left_s = budget_s - used_s
    shortest = shortest_runs(pace.run, whole_steps=whole_steps)
    needed_s = seconds_of(pace.run, shortest, seeds)
    if needed_s + pace.fewest > left_s:
        enough = format_duration(1.1 * (used_s + needed_s + pace.fewest))
        raise InputError(
            f"--budget {format_duration(budget_s)}: {2 * seeds} runs of {shortest.steps} "
            f"step{'s' * (shortest.steps > 1)} and a few trials take longer here; expected {enough} or more, or a "
            "cheaper run, such as --method top"
        )
    whole_s = seconds_of(pace.run, Runs(whole_steps, pace.run.scored), seeds)
    return min(max(TRIALS_SHARE * left_s, left_s - whole_s), left_s - needed_s)


def enough_budget(pace: Pace, *, whole_steps: int, seeds: int, used_s: float) -> float:
    """The least budget that has time for all steps of the recipe beside the share of the trials."""
    whole_s = seconds_of(pace.run, Runs(whole_steps, pace.run.scored), seeds)
    return used_s + max(whole_s / (1 - TRIALS_SHARE), whole_s + pace.fewest)


def trial_plan(
    pace: Pace, counts: Callable[[int], Sequence[int]], *, requested: int | None, most_steps: int, available: float
) -> tuple[int, int]:
    """Trials, and the steps of the shortest ones.

    Args:
        counts: trials by rung, of so many.
        requested: trials that the user asks for; None: as many as there is time for.
        most_steps: of the longest ones.
        available: seconds of all of them, and of those without augmentation beside them.
    """
    least = LEAST_STEPS

    def possible(least: int) -> int:
        return affordable(counts, pace.rungs(least), available - sum(pace.rungs(least)))

    if requested is None:
        while possible(2 * least) >= ENOUGH_TRIALS and 2**RUNGS * least <= most_steps:
            least *= 2
    trials = max(RUNGS, possible(least)) if requested is None else requested
    return min(trials, sum(counts(trials))), least
