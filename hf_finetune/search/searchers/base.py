"""What all searchers share: what they need of a search space, the trials that they propose, and asking and telling."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

RUNGS = 3
"""A candidate is tried on few steps first, on twice as many when it did well, and again."""

Candidate = Any
"""What a search looks for: a frozen dataclass of its space."""


@dataclass(frozen=True)
class Decision:
    """One choice on the way to a candidate."""

    name: str
    """Of this decision alone."""
    kind: str
    """Decisions of a kind have the same options."""
    options: tuple[Any, ...]
    ordered: bool = False
    """Whether neighbors among the options are alike."""


Choose = Callable[[Decision], Any]
"""Chooses one of a decision's options."""


class SearchSpace(Protocol):
    """What searchers need of a space."""

    def grid(self) -> list[Candidate]:
        """The candidates of a sweep, those first that alone are tried where there are few trials."""

    def candidate(self, choose: Choose) -> Candidate:
        """The candidate that follows from these choices; later decisions may depend on earlier ones."""

    def near(self, candidate: Candidate, rng: np.random.Generator) -> Candidate:
        """A candidate close to this one."""

    def extended(self, schedule: tuple[Candidate, ...], candidate: Candidate) -> tuple[Candidate, ...]:
        """The schedule with one more candidate."""


def drawn(rng: np.random.Generator) -> Choose:
    """Chooses at random, all options alike."""
    return lambda decision: decision.options[int(rng.integers(len(decision.options)))]


@dataclass(frozen=True)
class Trial:
    """A training to be done, from the shared start."""

    schedule: tuple[Candidate, ...]
    """Candidates in the order of the rungs: each holds for the steps that its rung has more than the one before; the
    last to the end."""
    rung: int
    """How long, from 0."""

    @property
    def candidate(self) -> Candidate:
        """The last one."""
        return self.schedule[-1]


class Searcher(ABC):
    """Proposes trials one at a time, and needs the score of each before it proposes the next.

    Made of (space, trials, seed), it proposes the same again when it is told the same: so a search is resumed.
    """

    @abstractmethod
    def __init__(self, space: SearchSpace, *, trials: int, seed: int = 0) -> None: ...

    @staticmethod
    @abstractmethod
    def counts(trials: int, space: SearchSpace) -> tuple[int, ...]:
        """Trials by rung, of so many."""

    @abstractmethod
    def ask(self) -> Trial | None:
        """The next trial; None: the search is over."""

    @abstractmethod
    def tell(self, trial: Trial, score: float) -> None:
        """Learn how the trial that was proposed last came out; more is better."""

    @staticmethod  # noqa: B027 most searchers need no package
    def check_installed() -> None:
        """Refuse to run without a package that the searcher needs.

        Raises:
            InputError: naming it, and how it is installed.
        """


class Rounds:
    """Trials in rounds: what comes next is decided when all scores of a round are known."""

    def __init__(self, first: list[Trial]) -> None:
        self.waiting = first
        self.scores: list[tuple[float, Trial]] = []

    def ask(self) -> Trial | None:
        """See `Searcher`."""
        return self.waiting[0] if self.waiting else None

    def tell(self, trial: Trial, score: float) -> None:
        """See `Searcher`."""
        self.waiting.pop(0)
        self.scores.append((score, trial))
        if not self.waiting:
            # Of equals the one that came first.
            self.scores.sort(key=lambda scored: -scored[0])
            self.waiting = self.next_round(trial.rung)

    def next_round(self, rung: int) -> list[Trial]:
        """The trials after a round on this rung, by `scores`, the best first; []: the search is over."""
        raise NotImplementedError


class Halving(Rounds):
    """Candidates on one rung, the better half of them on the next, and so on (successive halving, arXiv:1502.07943).

    Args:
        start: the rung to begin on.
    """

    def __init__(self, candidates: Sequence[Candidate], start: int = 0) -> None:
        super().__init__([Trial((candidate,), start) for candidate in candidates])

    def next_round(self, rung: int) -> list[Trial]:
        """See `Rounds`."""
        best, self.scores = self.scores[: math.ceil(len(self.scores) / 2)], []
        return [Trial(trial.schedule, rung + 1) for _, trial in best] if rung + 1 < RUNGS else []


def halved(arms: int, start: int = 0) -> tuple[int, ...]:
    """Trials of `Halving` by rung, when it begins with so many candidates."""
    return (*[0] * start, *(math.ceil(arms / 2**r) for r in range(RUNGS - start)))


def most_arms(trials: int, start: int = 0) -> int:
    """With how many candidates `Halving` takes no more than so many trials; at least 1."""
    return max([1, *(arms for arms in range(1, trials + 1) if sum(halved(arms, start)) <= trials)])
