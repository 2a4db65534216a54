"""The ask-and-tell interface of searchers, and what they need of a search space."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

RUNGS = 3
"""Number of training lengths: a candidate starts with few steps, and doubles them on each rung if it does well."""

Candidate = Any
"""What a search looks for: a frozen dataclass of its space."""


@dataclass(frozen=True)
class Decision:
    """One choice on the way to a candidate."""

    name: str
    """Unique among the decisions of a candidate."""
    kind: str
    """Decisions of a kind have the same options."""
    options: tuple[Any, ...]
    ordered: bool = False
    """Whether adjacent options are similar."""


Choose = Callable[[Decision], Any]
"""Chooses one of a decision's options."""


class SearchSpace(Protocol):
    """What searchers need of a space."""

    def grid(self) -> list[Candidate]:
        """Return the candidates of a grid search, the most important first."""

    def candidate(self, choose: Choose) -> Candidate:
        """Return the candidate that follows from the choices; later decisions may depend on earlier ones."""

    def near(self, candidate: Candidate, rng: np.random.Generator) -> Candidate:
        """Return a similar candidate."""

    def extended(self, schedule: tuple[Candidate, ...], candidate: Candidate) -> tuple[Candidate, ...]:
        """Append a candidate to a schedule."""


def at_random(rng: np.random.Generator) -> Choose:
    """Return a function that chooses uniformly at random."""
    return lambda decision: decision.options[int(rng.integers(len(decision.options)))]


@dataclass(frozen=True)
class Trial:
    """A training from the shared start."""

    schedule: tuple[Candidate, ...]
    """The candidate of each rung, used for the steps that the rung adds; the last is used to the end."""
    rung: int
    """Training length, from 0."""

    @property
    def candidate(self) -> Candidate:
        return self.schedule[-1]


class Searcher(ABC):
    """Proposes trials one at a time; each depends on the scores of those before it.

    A searcher is deterministic in (space, trials, seed) and the scores, so that replaying the scores resumes a search.
    """

    @abstractmethod
    def __init__(self, space: SearchSpace, *, trials: int, seed: int = 0) -> None: ...

    @staticmethod
    @abstractmethod
    def counts(trials: int, space: SearchSpace) -> tuple[int, ...]:
        """Return how many of a number of trials are on each rung."""

    @abstractmethod
    def ask(self) -> Trial | None:
        """Return the next trial, or None at the end of the search."""

    @abstractmethod
    def tell(self, trial: Trial, score: float) -> None:
        """Record the score of the last proposed trial; higher is better."""

    @staticmethod  # noqa: B027 most searchers need no package
    def check_installed() -> None:
        """Refuse to run without a package that the searcher needs.

        Raises:
            InputError: with the command that installs it.
        """


class Rounds:
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

    def next_round(self, rung: int) -> list[Trial]:
        """Return the trials after a round on this rung, given `scores`, the best first; [] ends the search."""
        raise NotImplementedError


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
