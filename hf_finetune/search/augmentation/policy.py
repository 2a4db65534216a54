"""A policy of augmentation as a search varies it: operations with a probability and a magnitude, and one way to mix
rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Probabilities and magnitudes that searchers choose from; beside them there is nothing at all."""
BRANCHES, MOVES = 2, 2
"""Alternatives of a policy, of which a row meets one, and the moves of each, one after the other (AutoAugment's
sub-policies, arXiv:1805.09501, which has five of two; fewer can be told apart in so few trials)."""


@dataclass(frozen=True)
class Move:
    """An operation on some rows."""

    operation: str
    """Its name in the space."""
    probability: float
    """Share of the rows."""
    magnitude: float
    """Above 0, to 1: the strongest that the space has."""

    def __str__(self) -> str:
        return f"{self.operation} {self.magnitude:g}{_times(self.probability)}"


@dataclass(frozen=True)
class Mix:
    """Rows mixed with one another, as `objective.mix` has it."""

    operation: str
    """Its name in the space."""
    probability: float
    """Share of the forward passes."""
    alpha: float
    """Of the distribution of a row's own share."""

    def __str__(self) -> str:
        return f"{self.operation} {self.alpha:g}{_times(self.probability)}"


@dataclass(frozen=True)
class Policy:
    """What is done to every training row; by default nothing."""

    branches: tuple[tuple[Move, ...], ...] = ()
    """For each row one of them is drawn, and its moves are made in order."""
    draws: int = 1
    """How often one is drawn for a row, each changing what the one before has left."""
    mix: Mix | None = None
    """How the rows, so changed, are mixed with one another."""

    def __str__(self) -> str:
        """`2 of SwapWords 0.4 | Typos 0.4`, or `SwapWords 0.4 x 0.6, Typos 0.2 | ... + Mixup 0.2`: name, magnitude (of
        what mixes rows: alpha), and the probability where it is not 1."""
        parts = [self._moves()] if self.branches else []
        return " + ".join([*parts, *([] if self.mix is None else [str(self.mix)])]) or "none"

    def _moves(self) -> str:
        if len(self.branches) <= 2 * BRANCHES:
            moves = [", ".join(map(str, branch)) for branch in self.branches]
            return ("" if self.draws == 1 else f"{self.draws} of ") + " | ".join(moves)
        levels = sorted({move.magnitude for branch in self.branches for move in branch})
        magnitude = f"{levels[0]:g}" if len(levels) == 1 else f"{levels[0]:g} to {levels[-1]:g}"
        return f"{self.draws} of all operations at {magnitude}"


def describe_schedule(schedule: tuple[Policy, ...]) -> str:
    """The policies of a schedule on one line."""
    return " then ".join(str(policy) for policy, _ in groupby(schedule))


def _times(probability: float) -> str:
    return "" if probability == 1 else f" x {probability:g}"


NONE = Policy()
"""No augmentation."""
