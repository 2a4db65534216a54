"""How long the runs and the trials of a search are, and how many trials there are: what its budget allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hf_finetune.errors import InputError
from hf_finetune.search.budget import affordable, spoken
from hf_finetune.search.retraining import Cost
from hf_finetune.search.searchers import RUNGS

USED_SHARE = 0.93
"""Of the budget; the rest is for what no estimate knew of."""
RETRAINING_SHARE = 0.6
"""Of the time after the start that the runs may take at most, trials the rest."""
DEARER = 1.15
"""What a run may take beyond its estimate."""
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

    def needed(self, steps: int, runs: int) -> float:
        """The budget, without the start, that lets runs have so many steps, two of each seed."""
        runs_s = (runs * self.run.of(steps) + runs / 2 * self.run.head_s + self.run.kept_s) * DEARER
        return max(runs_s / RETRAINING_SHARE, self.fewest / (1 - RETRAINING_SHARE)) / USED_SHARE


def judged(run: Cost, *, runs: int, budget_s: float, used_s: float) -> int:
    """Validation rows that every run answers for: all, or as many as a third of the time of the runs is enough for."""
    share_s = (budget_s * USED_SHARE - used_s) * RETRAINING_SHARE / 3 / DEARER
    return max(min(run.scored, LEAST_JUDGED), min(run.scored, int(share_s / (runs * run.score_s))))


def run_steps(pace: Pace, *, wanted: int, runs: int, budget_s: float, used_s: float) -> int:
    """Steps of the runs that decide: those of the recipe, or as many as there is time for.

    Raises:
        InputError: there is time for none.
    """
    available = budget_s - used_s / USED_SHARE
    if pace.needed(1, runs) > available:
        raise InputError(
            f"--budget {spoken(budget_s)}: {runs} runs of one step and a few trials take longer here; expected "
            f"{spoken(1.1 * (pace.needed(1, runs) + used_s / USED_SHARE))} or more, or a cheaper run, such as --method top"
        )
    return max(steps for steps in range(1, wanted + 1) if pace.needed(steps, runs) <= available)


def trial_plan(
    pace: Pace, counts: Callable[[int], Sequence[int]], *, wanted: int | None, most_steps: int, available: float
) -> tuple[int, int]:
    """Trials, and the steps of the shortest ones.

    Args:
        counts: trials by rung, of so many.
        wanted: trials that the user asks for; None: as many as there is time for.
        most_steps: of the longest ones.
        available: seconds of all of them, and of those without augmentation beside them.
    """
    least = LEAST_STEPS

    def possible(least: int) -> int:
        return affordable(counts, pace.rungs(least), available - sum(pace.rungs(least)))

    if wanted is None:
        while possible(2 * least) >= ENOUGH_TRIALS and 2**RUNGS * least <= most_steps:
            least *= 2
    trials = max(RUNGS, possible(least)) if wanted is None else wanted
    return min(trials, sum(counts(trials))), least
