"""Trials in rounds, successive halving, and grid search by it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from hf_finetune.search.searchers.base import RUNGS, Candidate, Searcher, SearchSpace, Trial


class Rounds(ABC):
    """Trials in rounds: all scores of a round determine the next."""

    def __init__(self, first: list[Trial]) -> None:
        self.waiting = first
        self.scores: list[tuple[float, Trial]] = []

    def ask(self) -> Trial | None:
        return self.waiting[0] if self.waiting else None

    def tell(self, trial: Trial, score: float) -> None:
        self.waiting.pop(0)
        self.scores.append((score, trial))
        if not self.waiting:
            self.scores.sort(key=lambda scored: -scored[0])  # stable: the earlier of equal trials comes first
            self.waiting = self.next_round(trial.rung)

    @abstractmethod
    def next_round(self, rung: int) -> list[Trial]:
        """Return the trials after a round on this rung, given `scores`, the best first; [] ends the search."""


class Halving(Rounds):
    """Successive halving (arXiv:1502.07943): the better half of the candidates goes on to the next rung.

    Args:
        start: the first rung.
    """

    def __init__(self, candidates: Sequence[Candidate], start: int = 0) -> None:
        super().__init__([Trial((candidate,), start) for candidate in candidates])

    def next_round(self, rung: int) -> list[Trial]:
        best, self.scores = self.scores[: math.ceil(len(self.scores) / 2)], []
        return [Trial(trial.schedule, rung + 1) for _, trial in best] if rung + 1 < RUNGS else []


def halving_counts(candidates: int, start: int = 0) -> tuple[int, ...]:
    """Return the trials of `Halving` on each rung."""
    return (*[0] * start, *(math.ceil(candidates / 2**r) for r in range(RUNGS - start)))


def max_candidates(trials: int) -> int:
    """Return the most candidates for which `Halving` takes no more than `trials` trials; at least 1."""
    return max([1, *(n for n in range(1, trials + 1) if sum(halving_counts(n)) <= trials)])


class Sweep(Halving, Searcher):
    """Successive halving of the space's grid."""

    def __init__(self, space: SearchSpace, *, trials: int, seed: int = 0) -> None:
        super().__init__(space.grid()[: max_candidates(trials)])

    @staticmethod
    def counts(trials: int, space: SearchSpace) -> tuple[int, ...]:
        return halving_counts(min(max_candidates(trials), len(space.grid())))
