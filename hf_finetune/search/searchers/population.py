"""Population-based search: a schedule of candidates, found by several trainings that learn from each other."""

from __future__ import annotations

import numpy as np

from hf_finetune.search.searchers.base import RUNGS, Candidate, Rounds, Searcher, SearchSpace, Trial, drawn

FEW_MEMBERS, MOST_MEMBERS, TRIALS_A_MEMBER = 4, 16, 8


class Population(Rounds, Searcher):
    """Population-based training (arXiv:1711.09846; of augmentation arXiv:1905.05393): all members train to a rung; then
    each of the worst quarter takes the place of one of the best (exploit), with a candidate near that one's (explore).
    This is done several times before all go on to the next rung: only those that changed train again.

    A member that takes another's place trains that one's schedule again from the shared start, which gives the weights
    that it had: nothing but scores has to be stored. What comes out is a schedule of candidates.
    """

    def __init__(self, space: SearchSpace, *, trials: int, seed: int = 0) -> None:
        self.space, self.rng = space, np.random.default_rng(seed)
        members, self.replaced, self.rounds = _sizes(trials)
        self.rounds_left = self.rounds[0]
        super().__init__([Trial((space.candidate(drawn(self.rng)),), 0) for _ in range(members)])

    @staticmethod
    def counts(trials: int, space: SearchSpace) -> tuple[int, ...]:
        """See `Searcher`."""
        members, replaced, rounds = _sizes(trials)
        return tuple(members + replaced * n for n in rounds)

    def next_round(self, rung: int) -> list[Trial]:
        """See `Rounds`."""
        best = [trial.schedule for _, trial in self.scores[: self.replaced]]
        survivors = self.scores[: len(self.scores) - self.replaced]
        if self.rounds_left:
            self.rounds_left -= 1
            self.scores = survivors
            return [Trial(self._explored(schedule[:-1], schedule), rung) for schedule in best]
        if rung + 1 == RUNGS:
            return []
        self.rounds_left, self.scores = self.rounds[rung + 1], []
        schedules = [(*trial.schedule, trial.candidate) for _, trial in survivors]
        schedules += [self._explored(schedule, schedule) for schedule in best]
        return [Trial(schedule, rung + 1) for schedule in schedules]

    def _explored(self, before: tuple[Candidate, ...], schedule: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        """What came before, and a candidate near the last one of the schedule."""
        return self.space.extended(before, self.space.near(schedule[-1], self.rng))


def _sizes(trials: int) -> tuple[int, int, tuple[int, ...]]:
    """Members, how many of them are replaced at a time, and how often on each rung beside the step to the next one."""
    members = max(1, min(MOST_MEMBERS, max(FEW_MEMBERS, trials // TRIALS_A_MEMBER), trials // RUNGS))
    # One alone has nobody to learn from.
    replaced = -(-members // 4) if members > 1 else 0
    rounds = (trials - RUNGS * members) // replaced if replaced else 0
    return members, replaced, (rounds - 2 * (rounds // 3), rounds // 3, rounds // 3)
