"""The ask-and-tell interface of searchers, and what they need of a search space."""

from abc import ABC, abstractmethod
from collections.abc import Callable
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
        """Return the candidate that follows from the choices. Later decisions may depend on earlier ones."""

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
    """The candidate of each rung, used for the steps that the rung adds. The last is used to the end."""
    rung: int
    """Training length, from 0."""

    @property
    def candidate(self) -> Candidate:
        return self.schedule[-1]


class Searcher(ABC):
    """Proposes trials one at a time. Each depends on the scores of those before it.

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
        """Record the score of the last proposed trial. Higher is better."""

    @staticmethod  # noqa: B027 most searchers need no package
    def check_installed() -> None:
        """Refuse to run without a package that the searcher needs.

        Raises:
            InputError: with the command that installs it.
        """
