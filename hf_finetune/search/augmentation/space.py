"""What a search for a policy of augmentation chooses from: operations of one strength each, ways to mix rows with one
another, and policies made of them."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from hf_finetune.augmentation.compose import Augmentation, Compose, OneOf, Phases, Sometimes
from hf_finetune.augmentation.image.operations import ImageOperation
from hf_finetune.augmentation.image.policies import RANDOM_KINDS, STRONGEST_MAGNITUDE, at_magnitude
from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.augmentation.operations import Graded, ImageBatch, TextBatch, generators
from hf_finetune.augmentation.text.operations import TextOperation
from hf_finetune.errors import InputError
from hf_finetune.search.augmentation.policy import BRANCHES, LEVELS, MOVES, Mix, Move, Policy
from hf_finetune.search.searchers.base import Choose, Decision, drawn

EXPLORED = 0.2
"""Chance that a move near another one is any move (PBA's explore, arXiv:1905.05393)."""

Strengths = dict[str, Callable[[float], Any]]
"""Operations by name, each made for a strength above 0, to 1."""


@dataclass(frozen=True)
class Space:
    """All that there is to choose from."""

    operations: Strengths
    mixings: tuple[type[Mixing], ...] = ()
    """Where there are some, a policy may have one of them."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the operations, in order."""
        return tuple(self.operations)

    @property
    def mixing_names(self) -> tuple[str, ...]:
        """Of the ways to mix rows, in order."""
        return tuple(kind.__name__ for kind in self.mixings)

    # As the recipe has it

    def augment(self, policy: Policy) -> tuple[Augmentation, ...]:
        """The policy as `data.augment` takes it."""
        if not policy.branches:
            return ()
        branches = [tuple(map(self._operation, moves)) for moves in policy.branches]
        if len(branches) == 1:
            return branches[0] * policy.draws
        return (OneOf(tuple(map(_one, branches))),) * policy.draws

    def augment_in_turn(self, policies: Sequence[Policy], starts: Sequence[float]) -> tuple[Augmentation, ...]:
        """Policies that follow one another in a training, as `data.augment` takes them.

        Args:
            starts: of each but the first, as a share of the training's steps.
        """
        turns = [(0.0, self.augment(policies[0]))]
        for start, policy in zip(starts, policies[1:], strict=True):
            if (augment := self.augment(policy)) != turns[-1][1]:
                turns.append((start, augment))
        if len(turns) == 1:
            return turns[0][1]
        return (Phases(tuple(_one(operations) for _, operations in turns), tuple(start for start, _ in turns[1:])),)

    def mix(self, policy: Policy) -> tuple[Mixing, ...]:
        """The policy as `objective.mix` takes it."""
        if policy.mix is None:
            return ()
        kind = self.mixings[self.mixing_names.index(policy.mix.operation)]
        return (kind(alpha=policy.mix.alpha, p=policy.mix.probability),)

    def _operation(self, move: Move) -> Augmentation:
        operation = self.operations[move.operation](move.magnitude)
        return operation if move.probability == 1 else Sometimes(operation, move.probability)

    # As searchers need it, see `searchers.base.SearchSpace`

    def every(self, magnitude: float, draws: int = 1) -> Policy:
        """For every row `draws` of all operations at one magnitude (RandAugment, arXiv:1909.13719)."""
        return Policy(tuple((Move(name, 1.0, magnitude),) for name in self.names), draws)

    def every_at_any(self) -> Policy:
        """For every row one of all operations at any magnitude (TrivialAugment, arXiv:2103.10158)."""
        return Policy(tuple((Move(name, 1.0, level),) for name in self.names for level in LEVELS))

    def mixed(self) -> tuple[Policy, ...]:
        """Nothing but mixing, each way as it is by default."""
        return tuple(Policy(mix=Mix(kind.__name__, kind().p, kind().alpha)) for kind in self.mixings)

    def grid(self) -> list[Policy]:
        """One or two operations for a row, all at one magnitude, the middle one first; one operation at any magnitude;
        and each way to mix rows, alone and after that."""
        levels = sorted(LEVELS, key=lambda level: abs(level - LEVELS[len(LEVELS) // 2]))
        middle, *others = ([self.every(level, draws) for draws in (1, 2)] for level in levels)
        any_magnitude = self.every_at_any()
        mixed = [policy for alone in self.mixed() for policy in (alone, replace(any_magnitude, mix=alone.mix))]
        return [any_magnitude, *middle, *mixed, *(policy for both in others for policy in both)]

    def candidate(self, choose: Choose) -> Policy:
        """Any policy."""
        branches = tuple(tuple(self._move(choose, f"{b}.{m} ") for m in range(MOVES)) for b in range(BRANCHES))
        return Policy(branches, mix=self._mix(choose))

    def near(self, policy: Policy, rng: np.random.Generator) -> Policy:
        """A policy with every move a step away, or now and then any other one."""
        branches = tuple(tuple(self._near(move, rng) for move in moves) for moves in policy.branches)
        return replace(policy, branches=branches, mix=self._near_mix(policy.mix, rng))

    def extended(self, schedule: tuple[Policy, ...], policy: Policy) -> tuple[Policy, ...]:
        """The schedule with one more policy; as `objective.mix` holds for a whole run, all mix rows as that one
        does."""
        return (*(replace(before, mix=policy.mix) for before in schedule), policy)

    def _move(self, choose: Choose, where: str = "") -> Move:
        name = choose(Decision(f"{where}operation", "operation", self.names))
        probability, magnitude = (
            choose(Decision(where + kind, kind, LEVELS, ordered=True)) for kind in ("probability", "magnitude")
        )
        return Move(name, probability, magnitude)

    def _mix(self, choose: Choose) -> Mix | None:
        """Any way to mix rows, or none."""
        if not self.mixings or (name := choose(Decision("mix", "mix", ("none", *self.mixing_names)))) == "none":
            return None
        kinds = ("mix probability", "mix alpha")
        probability, alpha = (choose(Decision(kind, kind, LEVELS, ordered=True)) for kind in kinds)
        return Mix(name, probability, alpha)

    def _near(self, move: Move, rng: np.random.Generator) -> Move:
        if rng.random() < EXPLORED:
            return self._move(drawn(rng))
        return Move(move.operation, _step_away(move.probability, rng), _step_away(move.magnitude, rng))

    def _near_mix(self, mix: Mix | None, rng: np.random.Generator) -> Mix | None:
        if self.mixings and rng.random() < EXPLORED:
            return self._mix(drawn(rng))
        return mix and Mix(mix.operation, _step_away(mix.probability, rng), _step_away(mix.alpha, rng))


def _one(operations: tuple[Augmentation, ...]) -> Augmentation:
    return operations[0] if len(operations) == 1 else Compose(operations)


def _step_away(level: float, rng: np.random.Generator) -> float:
    """One of `LEVELS`: the same, or the next on either side."""
    step = LEVELS.index(level) + int(rng.integers(-1, 2))
    return LEVELS[min(max(step, 0), len(LEVELS) - 1)]


def _graded(union: Any) -> Strengths:
    """The members whose strength is one number."""
    return {kind.__name__: kind.from_strength for kind in typing.get_args(union) if issubclass(kind, Graded)}


def _of_the_papers(kind: str, strength: float) -> Any:
    operation = at_magnitude(kind, STRONGEST_MAGNITUDE * strength)
    # People read a policy: a fifth of 0.9 is 0.18.
    digits = {name: round(value, 6) for name, value in vars(operation).items() if isinstance(value, float)}
    return replace(operation, **digits)


TEXT_OPERATIONS = _graded(TextOperation)
IMAGE_OPERATIONS: Strengths = {
    **{kind: partial(_of_the_papers, kind) for kind in RANDOM_KINDS if kind != "Identity"},
    **_graded(ImageOperation),
}
"""RandAugment's operations and those beside them."""


def space_of(batch: TextBatch | ImageBatch, why_no_mixing: str | None = None) -> tuple[Space, tuple[str, ...]]:
    """Every operation that goes with the data, and a line for each that does not.

    What runs a network of its own (SubstituteByModel, BackTranslate) is not among them: that is too slow in every
    epoch.

    Args:
        batch: a few training rows.
        why_no_mixing: why rows cannot be mixed with one another; None: they can.
    """
    is_text = isinstance(batch, TextBatch)
    suitable: Strengths = {}
    left_out = []
    for name, from_strength in (TEXT_OPERATIONS if is_text else IMAGE_OPERATIONS).items():
        try:
            from_strength(1.0)(batch, generators(0, range(len(batch)), 0))
        except InputError as error:
            left_out.append(f"{name} is not in the space: {error}")
        else:
            suitable[name] = from_strength
    if why_no_mixing is not None:
        left_out.append(f"mixing rows is not in the space: {why_no_mixing}")
        return Space(suitable), tuple(left_out)
    mixings = tuple(kind for kind in typing.get_args(Mixing) if kind.mixes_texts or not is_text)
    return Space(suitable, mixings), tuple(left_out)
