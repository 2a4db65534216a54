"""The search space of augmentation policies: graded operations, ways to mix rows, and the policies made of them."""

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hf_finetune.augmentation.compose import Augmentation, Compose, OneOf, Phases, Sometimes
from hf_finetune.augmentation.image.color import AutoContrast, ColorJitter, Equalize, Posterize, Solarize
from hf_finetune.augmentation.image.geometry import Rotate, Shear, Translate
from hf_finetune.augmentation.image.operations import ImageOperation
from hf_finetune.augmentation.image.quality import Sharpness
from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.augmentation.operations import Graded, ImageBatch, TextBatch, generators
from hf_finetune.augmentation.text.operations import TextOperation
from hf_finetune.errors import InputError
from hf_finetune.search.augmentation.policy import BRANCHES, LEVELS, MOVES, Move, Policy
from hf_finetune.search.searchers.base import Choose, Decision, at_random

EXPLORED = 0.2
"""Probability that a neighbor of a move is any move (PBA's explore, arXiv:1905.05393)."""

Strengths = dict[str, Callable[[float], Any]]
"""Constructors of operations from a strength in (0, 1], by name."""


@dataclass(frozen=True)
class Space:
    """The operations and ways to mix that a policy can use; implements `searchers.base.SearchSpace`."""

    operations: Strengths
    mixings: tuple[type[Mixing], ...] = ()
    """Ways to mix rows, of which a policy uses at most one."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.operations)

    @property
    def mixing_names(self) -> tuple[str, ...]:
        return tuple(kind.__name__ for kind in self.mixings)

    def augment(self, policy: Policy) -> tuple[Augmentation, ...]:
        """Return the operations of a policy for `data.augment`."""
        if not policy.branches:
            return ()
        branches = [tuple(map(self._operation, moves)) for moves in policy.branches]
        if len(branches) == 1:
            return branches[0] * policy.draws
        return (OneOf(tuple(map(_compose, branches))),) * policy.draws

    def augment_in_phases(self, policies: Sequence[Policy], starts: Sequence[float]) -> tuple[Augmentation, ...]:
        """Return the operations of a schedule of policies for `data.augment`.

        Args:
            starts: start of each policy but the first, as a share of the training's steps.
        """
        phases = [(0.0, self.augment(policies[0]))]
        for start, policy in zip(starts, policies[1:], strict=True):
            if (augment := self.augment(policy)) != phases[-1][1]:
                phases.append((start, augment))
        if len(phases) == 1:
            return phases[0][1]
        return (Phases(tuple(_compose(operations) for _, operations in phases), tuple(s for s, _ in phases[1:])),)

    def mix(self, policy: Policy) -> tuple[Mixing, ...]:
        """Return the mixing of a policy for `objective.mix`."""
        if policy.mix is None:
            return ()
        kind = self.mixings[self.mixing_names.index(policy.mix.operation)]
        return (kind(alpha=policy.mix.magnitude, p=policy.mix.probability),)

    def _operation(self, move: Move) -> Augmentation:
        operation = self.operations[move.operation](move.magnitude)
        return operation if move.probability == 1 else Sometimes(operation, move.probability)

    def rand_augment(self, magnitude: float, draws: int = 1) -> Policy:
        """Return the policy that draws from all operations at one magnitude (RandAugment, arXiv:1909.13719)."""
        return Policy(tuple((Move(name, 1.0, magnitude),) for name in self.names), draws)

    def trivial_augment(self) -> Policy:
        """Return the policy that draws one operation at any magnitude (TrivialAugment, arXiv:2103.10158)."""
        return Policy(tuple((Move(name, 1.0, level),) for name in self.names for level in LEVELS))

    def only_mixing(self) -> tuple[Policy, ...]:
        """Return the policies that only mix rows, one for each way with its defaults."""
        return tuple(Policy(mix=Move(kind.__name__, kind().p, kind().alpha)) for kind in self.mixings)

    def grid(self) -> list[Policy]:
        """Return TrivialAugment, RandAugment of one and two operations at the middle magnitude, each way to mix rows
        with and without TrivialAugment, then RandAugment at the other magnitudes."""
        levels = sorted(LEVELS, key=lambda level: abs(level - LEVELS[len(LEVELS) // 2]))
        middle, *others = ([self.rand_augment(level, draws) for draws in (1, 2)] for level in levels)
        trivial = self.trivial_augment()
        mixing = [policy for only in self.only_mixing() for policy in (only, replace(trivial, mix=only.mix))]
        return [trivial, *middle, *mixing, *(policy for both in others for policy in both)]

    def candidate(self, choose: Choose) -> Policy:
        """Return the policy that follows from the choices."""
        branches = tuple(tuple(self._move(choose, f"{b}.{m} ") for m in range(MOVES)) for b in range(BRANCHES))
        return Policy(branches, mix=self._mix(choose))

    def near(self, policy: Policy, rng: np.random.Generator) -> Policy:
        """Return a policy with every move changed by at most a level, or sometimes replaced by any other."""
        branches = tuple(tuple(self._near(move, rng) for move in moves) for moves in policy.branches)
        return replace(policy, branches=branches, mix=self._near_mix(policy.mix, rng))

    def extended(self, schedule: tuple[Policy, ...], policy: Policy) -> tuple[Policy, ...]:
        """Append a policy to the schedule, and its mixing to all policies: `objective.mix` holds for a whole run."""
        return (*(replace(before, mix=policy.mix) for before in schedule), policy)

    def _move(self, choose: Choose, prefix: str = "") -> Move:
        name = choose(Decision(f"{prefix}operation", "operation", self.names))
        probability, magnitude = (
            choose(Decision(prefix + kind, kind, LEVELS, ordered=True)) for kind in ("probability", "magnitude")
        )
        return Move(name, probability, magnitude)

    def _mix(self, choose: Choose) -> Move | None:
        if not self.mixings or (name := choose(Decision("mix", "mix", ("none", *self.mixing_names)))) == "none":
            return None
        kinds = ("mix probability", "mix alpha")
        probability, alpha = (choose(Decision(kind, kind, LEVELS, ordered=True)) for kind in kinds)
        return Move(name, probability, alpha)

    def _near(self, move: Move, rng: np.random.Generator) -> Move:
        return self._move(at_random(rng)) if rng.random() < EXPLORED else _neighbor(move, rng)

    def _near_mix(self, mix: Move | None, rng: np.random.Generator) -> Move | None:
        if self.mixings and rng.random() < EXPLORED:
            return self._mix(at_random(rng))
        return mix and _neighbor(mix, rng)


def _neighbor(move: Move, rng: np.random.Generator) -> Move:
    return Move(move.operation, _adjacent_level(move.probability, rng), _adjacent_level(move.magnitude, rng))


def _compose(operations: tuple[Augmentation, ...]) -> Augmentation:
    return operations[0] if len(operations) == 1 else Compose(operations)


def _adjacent_level(level: float, rng: np.random.Generator) -> float:
    """Return the level itself or an adjacent one, at random."""
    step = LEVELS.index(level) + int(rng.integers(-1, 2))
    return LEVELS[min(max(step, 0), len(LEVELS) - 1)]


def _graded(union: Any) -> Strengths:
    return {kind.__name__: kind.from_strength for kind in typing.get_args(union) if issubclass(kind, Graded)}


def _at(strength: float, strongest: float) -> float:
    """Return the part of a field's largest value, rounded for readers of the policy: a fifth of 0.9 is 0.18."""
    return round(strongest * strength, 6)


TEXT_OPERATIONS = _graded(TextOperation)
RAND_AUGMENT: Strengths = {
    "ShearX": lambda s: Shear(_at(s, 0.3), 0.0, "corner", "ends", "nearest"),
    "ShearY": lambda s: Shear(0.0, _at(s, 0.3), "corner", "ends", "nearest"),
    "TranslateX": lambda s: Translate(_at(s, 150 / 331), 0.0, draw="ends"),
    "TranslateY": lambda s: Translate(0.0, _at(s, 150 / 331), draw="ends"),
    "Rotate": lambda s: Rotate(_at(s, 30.0), "ends", "nearest"),
    "Brightness": lambda s: ColorJitter(_at(s, 0.9), 0.0, 0.0, draw="ends"),
    "Color": lambda s: ColorJitter(0.0, 0.0, _at(s, 0.9), draw="ends"),
    "Contrast": lambda s: ColorJitter(0.0, _at(s, 0.9), 0.0, draw="ends"),
    "Sharpness": lambda s: Sharpness(_at(s, 0.9), "ends", p=1.0),
    "Posterize": lambda s: Posterize(round(8 - 4 * s), p=1.0),
    "Solarize": lambda s: Solarize(_at(1 - s, 255.0), p=1.0),
    "AutoContrast": lambda s: AutoContrast(p=1.0),
    "Equalize": lambda s: Equalize(p=1.0),
}
"""The operations of RandAugment (arXiv:1909.13719), one by one. Strength 1 is its magnitude 30. Those with a direction
draw it, at a fixed distance."""
IMAGE_OPERATIONS: Strengths = {**RAND_AUGMENT, **_graded(ImageOperation)}
"""RandAugment's operations, and all other graded ones."""


def space_of(batch: TextBatch | ImageBatch, why_no_mixing: str | None = None) -> tuple[Space, tuple[str, ...]]:
    """Return the space of all operations that run on the data, and a note for each that does not.

    Generative operations (SubstituteByModel, BackTranslate) are excluded: they are too slow for every epoch.

    Args:
        batch: a few training rows.
        why_no_mixing: the reason why rows cannot be mixed; None if they can.
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
