"""Searchers: one interface for all, ask and tell, and those that need nothing but numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from hf_finetune.search.augmentation.space import LEVELS, Policy, Space

RUNGS = 3
"""A policy is tried on few steps first, on twice as many when it did well, and again."""


@dataclass(frozen=True)
class Trial:
    """A training to be done, from the shared start."""

    schedule: tuple[Policy, ...]
    """Policies in the order of the rungs: each holds for the steps that its rung has more than the one before; the last to
    the end."""
    rung: int
    """How long, from 0."""

    @property
    def policy(self) -> Policy:
        """The last one."""
        return self.schedule[-1]


class Searcher(Protocol):
    """Proposes trials one at a time; every one is told its score before the next is asked for.

    Made of (space, trials, seed), it proposes the same again when it is told the same: so a search is resumed.
    """

    def ask(self) -> Trial | None:
        """What to try next; None: it has done."""

    def tell(self, trial: Trial, score: float) -> None:
        """How the trial that was asked for last came out; more is better."""


class Halving:
    """Policies on one rung, the better half of them on the next, and so on (successive halving, arXiv:1502.07943).

    Args:
        start: the rung to begin on.
    """

    def __init__(self, policies: Sequence[Policy], start: int = 0) -> None:
        self.waiting = [Trial((policy,), start) for policy in policies]
        self.scores: list[tuple[float, Trial]] = []

    def ask(self) -> Trial | None:
        """See `Searcher`."""
        return self.waiting[0] if self.waiting else None

    def tell(self, trial: Trial, score: float) -> None:
        """See `Searcher`."""
        self.waiting.pop(0)
        self.scores.append((score, trial))
        if self.waiting or trial.rung + 1 == RUNGS:
            return
        # Of equals the one that came first.
        best = sorted(self.scores, key=lambda told: -told[0])[: math.ceil(len(self.scores) / 2)]
        self.waiting, self.scores = [Trial(t.schedule, trial.rung + 1) for _, t in best], []


def halved(arms: int, start: int = 0) -> tuple[int, ...]:
    """Trials of `Halving` by rung, when it begins with so many policies."""
    return (*[0] * start, *(math.ceil(arms / 2**r) for r in range(RUNGS - start)))


def most_arms(trials: int, start: int = 0) -> int:
    """With how many policies `Halving` takes no more than so many trials; at least 1."""
    return max([1, *(arms for arms in range(1, trials + 1) if sum(halved(arms, start)) <= trials)])


class Sweep:
    """Two numbers: how many operations a row meets, one or two, and at what magnitude they all are (RandAugment); one
    operation at any magnitude (TrivialAugment), which has no number at all; and each way to mix rows, alone and after that."""

    def __init__(self, space: Space, *, trials: int, seed: int = 0) -> None:
        self.halving = Halving(_swept(space)[: most_arms(trials)])

    @staticmethod
    def counts(trials: int, space: Space) -> tuple[int, ...]:
        """Trials by rung, of so many."""
        return halved(min(most_arms(trials), len(_swept(space))))

    def ask(self) -> Trial | None:
        """See `Searcher`."""
        return self.halving.ask()

    def tell(self, trial: Trial, score: float) -> None:
        """See `Searcher`."""
        self.halving.tell(trial, score)


def _swept(space: Space) -> list[Policy]:
    """All policies of a sweep, those first that alone are tried where there are few trials: of the middle magnitude."""
    levels = sorted(LEVELS, key=lambda level: abs(level - LEVELS[len(LEVELS) // 2]))
    middle, *others = ([space.every(level, draws) for draws in (1, 2)] for level in levels)
    any_magnitude = space.every_at_any()
    mixed = [policy for alone in space.mixed() for policy in (alone, replace(any_magnitude, mix=alone.mix))]
    return [any_magnitude, *middle, *mixed, *(policy for both in others for policy in both)]
