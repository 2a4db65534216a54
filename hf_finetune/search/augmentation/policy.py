"""Augmentation policies as searchers vary them: operations with probability and magnitude, and a way to mix rows."""

from dataclasses import dataclass
from itertools import groupby

LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Probabilities and magnitudes to choose from. 0 is not among them, as it does nothing."""
BRANCHES, MOVES = 2, 2
"""Branches of a policy, of which each row gets one, and moves per branch (the sub-policies of AutoAugment,
arXiv:1805.09501, which has five of two; few trials cannot distinguish as many)."""


@dataclass(frozen=True)
class Move:
    """An operation at a probability and a magnitude."""

    operation: str
    """Name in the space."""
    probability: float
    """Share of the rows; for mixing, share of the forward passes."""
    magnitude: float
    """Strength in (0, 1], 1 being the strongest of the space; for mixing, alpha."""

    def __str__(self) -> str:
        probability = "" if self.probability == 1 else f" x {self.probability:g}"
        return f"{self.operation} {self.magnitude:g}{probability}"


@dataclass(frozen=True)
class Policy:
    """What is done to every training row; by default nothing."""

    branches: tuple[tuple[Move, ...], ...] = ()
    """One branch is drawn for each row, and its moves are applied in order."""
    draws: int = 1
    """How many branches are drawn for a row, and applied one after another."""
    mix: Move | None = None
    """How the augmented rows are mixed with one another."""

    def __str__(self) -> str:
        """Return each move's name, magnitude, and probability unless that is 1.

        Such as `2 of SwapWords 0.4 | KeyboardTypos 0.4`, or `SwapWords 0.4 x 0.6, KeyboardTypos 0.2 | ... + Mixup 0.2`.
        """
        parts = [self._branches()] if self.branches else []
        return " + ".join([*parts, *([] if self.mix is None else [str(self.mix)])]) or "none"

    def _branches(self) -> str:
        if len(self.branches) <= 2 * BRANCHES:
            branches = " | ".join(", ".join(map(str, moves)) for moves in self.branches)
            return branches if self.draws == 1 else f"{self.draws} of {branches}"
        levels = sorted({move.magnitude for branch in self.branches for move in branch})
        magnitude = f"{levels[0]:g}" if len(levels) == 1 else f"{levels[0]:g} to {levels[-1]:g}"
        return f"{self.draws} of all operations at {magnitude}"


NONE = Policy()
"""No augmentation."""


def describe_schedule(schedule: tuple[Policy, ...]) -> str:
    """Describe the policies of a schedule in one line."""
    return " then ".join(str(policy) for policy, _ in groupby(schedule))
