"""Population-based search for a schedule of candidates."""

import numpy as np

from hf_finetune.search.searchers.base import RUNGS, Candidate, Searcher, SearchSpace, Trial, at_random
from hf_finetune.search.searchers.halving import Rounds

MIN_MEMBERS, MAX_MEMBERS, TRIALS_PER_MEMBER = 4, 16, 8


class Population(Rounds, Searcher):
    """Population-based training (arXiv:1711.09846; for augmentation arXiv:1905.05393).

    All members train to a rung. Then each of the worst quarter copies the schedule of one of the best (exploit) with a
    similar last candidate (explore); this repeats, and only changed members train again, before all go on to the next
    rung.

    A copied schedule trains again from the shared start, which reproduces the weights: only scores have to be stored.
    """

    def __init__(self, space: SearchSpace, *, trials: int, seed: int = 0) -> None:
        self.space, self.rng = space, np.random.default_rng(seed)
        members, self.replaced, self.rounds = _sizes(trials)
        self.rounds_left = self.rounds[0]
        super().__init__([Trial((space.candidate(at_random(self.rng)),), 0) for _ in range(members)])

    @staticmethod
    def counts(trials: int, space: SearchSpace) -> tuple[int, ...]:
        members, replaced, rounds = _sizes(trials)
        return tuple(members + replaced * n for n in rounds)

    def next_round(self, rung: int) -> list[Trial]:
        best = [trial.schedule for _, trial in self.scores[: self.replaced]]
        survivors = self.scores[: len(self.scores) - self.replaced]
        if self.rounds_left:
            self.rounds_left -= 1
            self.scores = survivors
            return [Trial(self._explore(schedule[:-1], schedule), rung) for schedule in best]
        if rung + 1 == RUNGS:
            return []
        self.rounds_left, self.scores = self.rounds[rung + 1], []
        schedules = [(*trial.schedule, trial.candidate) for _, trial in survivors]
        schedules += [self._explore(schedule, schedule) for schedule in best]
        return [Trial(schedule, rung + 1) for schedule in schedules]

    def _explore(self, prefix: tuple[Candidate, ...], schedule: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        """Append a candidate similar to the schedule's last one to the prefix."""
        return self.space.extended(prefix, self.space.near(schedule[-1], self.rng))


def _sizes(trials: int) -> tuple[int, int, tuple[int, ...]]:
    """Return the number of members, how many are replaced per round, and the rounds on each rung."""
    members = max(1, min(MAX_MEMBERS, max(MIN_MEMBERS, trials // TRIALS_PER_MEMBER), trials // RUNGS))
    replaced = -(-members // 4) if members > 1 else 0
    rounds = (trials - RUNGS * members) // replaced if replaced else 0
    return members, replaced, (rounds - 2 * (rounds // 3), rounds // 3, rounds // 3)
