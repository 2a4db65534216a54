"""What a search for a policy of augmentation chooses from: operations of one strength each, ways to mix rows with one another,
and policies made of them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from collections.abc import Sequence as Several
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from hf_finetune.augmentation.compose import Augmentation, OneOf, Phases, Sequence, Sometimes
from hf_finetune.augmentation.image.operations import (
    Blur,
    Erase,
    Flip,
    Grayscale,
    Jpeg,
    Noise,
    Perspective,
    ResizedCrop,
    Scale,
)
from hf_finetune.augmentation.image.policies import RANDOM_KINDS, STRONGEST_MAGNITUDE, at_magnitude
from hf_finetune.augmentation.mixing import CutMix, Mixing, Mixup, ResizeMix
from hf_finetune.augmentation.operations import ImageBatch, TextBatch, generators
from hf_finetune.augmentation.text.operations import TextOperation
from hf_finetune.errors import InputError
from hf_finetune.utils import codec

LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Probabilities and magnitudes that searchers choose from; beside them there is nothing at all."""
BRANCHES, MOVES = 2, 2
"""Alternatives of a policy, of which a row meets one, and the moves of each, one after the other (AutoAugment's sub-policies,
arXiv:1805.09501, which has five of two; fewer can be told apart in so few trials)."""


@dataclass(frozen=True)
class Move:
    """An operation on some rows."""

    operation: str
    """Its name in the space."""
    probability: float
    """Share of the rows."""
    magnitude: float
    """Above 0, to 1: the strongest that the space has."""


@dataclass(frozen=True)
class Mix:
    """Rows mixed with one another, which `objective.mix` says."""

    operation: str
    """Its name in the space."""
    probability: float
    """Share of the forward passes."""
    alpha: float
    """Of the distribution of a row's own share."""


@dataclass(frozen=True)
class Policy:
    """What is done to every training row; by default nothing."""

    branches: tuple[tuple[Move, ...], ...] = ()
    """For each row one of them is drawn, and its moves are made in order."""
    draws: int = 1
    """How often one is drawn for a row, each changing what the one before has left."""
    mix: Mix | None = None
    """How the rows, so changed, are mixed with one another."""


NONE = Policy()
"""No augmentation."""


@dataclass(frozen=True)
class Strength:
    """An operation whose strength is one number."""

    name: str
    at: Callable[[float], Augmentation]
    """The operation at a magnitude above 0, to 1."""


@dataclass(frozen=True)
class Space:
    """All that there is to choose from."""

    kind: Literal["text", "image"]
    operations: tuple[Strength, ...]
    mixings: tuple[type[Mixup] | type[CutMix] | type[ResizeMix], ...] = ()
    """Where there are some, a policy may have one of them."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the operations, in order."""
        return tuple(o.name for o in self.operations)

    @property
    def mixing_names(self) -> tuple[str, ...]:
        """Of the ways to mix rows, in order."""
        return tuple(kind.__name__ for kind in self.mixings)

    def augment(self, policy: Policy) -> tuple[Augmentation, ...]:
        """The policy as `data.augment` takes it."""
        if not policy.branches:
            return ()
        branches = [self._steps(moves) for moves in policy.branches]
        if len(branches) == 1:
            return branches[0] * policy.draws
        return (OneOf(tuple(b[0] if len(b) == 1 else Sequence(b) for b in branches)),) * policy.draws

    def augment_in_turn(self, policies: Several[Policy], starts: Several[float]) -> tuple[Augmentation, ...]:
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
        phases = tuple(operations[0] if len(operations) == 1 else Sequence(operations) for _, operations in turns)
        return (Phases(phases, tuple(start for start, _ in turns[1:])),)

    def mix(self, policy: Policy) -> tuple[Mixing, ...]:
        """The policy as `objective.mix` takes it."""
        if policy.mix is None:
            return ()
        kind = self.mixings[self.mixing_names.index(policy.mix.operation)]
        return (kind(alpha=policy.mix.alpha, p=policy.mix.probability),)

    def _steps(self, moves: tuple[Move, ...]) -> tuple[Augmentation, ...]:
        at = {o.name: o.at for o in self.operations}
        made = [(m.probability, at[m.operation](m.magnitude)) for m in moves]
        return tuple(operation if p == 1 else Sometimes(operation, p) for p, operation in made)

    def every(self, magnitude: float, draws: int = 1) -> Policy:
        """For every row `draws` of all operations at one magnitude (RandAugment, arXiv:1909.13719)."""
        return Policy(tuple((Move(name, 1.0, magnitude),) for name in self.names), draws)

    def every_at_any(self) -> Policy:
        """For every row one of all operations at any magnitude (TrivialAugment, arXiv:2103.10158)."""
        return Policy(tuple((Move(name, 1.0, level),) for name in self.names for level in LEVELS))

    def mixed(self) -> tuple[Policy, ...]:
        """Nothing but mixing, each way as it is by default."""
        return tuple(Policy(mix=Mix(kind.__name__, kind().p, kind().alpha)) for kind in self.mixings)

    def move(self, rng: np.random.Generator) -> Move:
        """Any move."""
        return Move(str(rng.choice(self.names)), float(rng.choice(LEVELS)), float(rng.choice(LEVELS)))

    def policy(self, rng: np.random.Generator) -> Policy:
        """Any policy."""
        branches = tuple(tuple(self.move(rng) for _ in range(MOVES)) for _ in range(BRANCHES))
        return Policy(branches, mix=self._any_mix(rng))

    def near(self, policy: Policy, rng: np.random.Generator) -> Policy:
        """A policy with every move a step away, or with a chance of a fifth any other one (PBA's explore)."""
        branches = tuple(tuple(self._near(m, rng) for m in moves) for moves in policy.branches)
        return replace(policy, branches=branches, mix=self._near_mix(policy.mix, rng))

    def _near(self, move: Move, rng: np.random.Generator) -> Move:
        if rng.random() < 0.2:
            return self.move(rng)
        return Move(move.operation, _step_away(move.probability, rng), _step_away(move.magnitude, rng))

    def _any_mix(self, rng: np.random.Generator) -> Mix | None:
        """Any way to mix rows; none is as likely as each."""
        if not self.mixings or (chosen := int(rng.integers(len(self.mixings) + 1))) == 0:
            return None
        return Mix(self.mixing_names[chosen - 1], float(rng.choice(LEVELS)), float(rng.choice(LEVELS)))

    def _near_mix(self, mix: Mix | None, rng: np.random.Generator) -> Mix | None:
        if self.mixings and rng.random() < 0.2:
            return self._any_mix(rng)
        return mix and Mix(mix.operation, _step_away(mix.probability, rng), _step_away(mix.alpha, rng))


def _step_away(level: float, rng: np.random.Generator) -> float:
    """One of `LEVELS`: the same, or the next on either side."""
    step = LEVELS.index(level) + int(rng.integers(-1, 2))
    return LEVELS[min(max(step, 0), len(LEVELS) - 1)]


STRONGEST_SHARE = 3
"""The strongest operation on texts changes so many times the share that it changes by default, at most all."""


def _texts() -> tuple[Strength, ...]:
    """Every operation on texts whose strength is the share `p` and which needs nothing to be given."""
    found = []
    for kind in typing.get_args(TextOperation):
        defaults = {f.name: f.default for f in dataclasses.fields(kind)}
        if "p" in defaults and dataclasses.MISSING not in defaults.values():
            found.append(Strength(kind.__name__, partial(_share, kind, min(1.0, STRONGEST_SHARE * defaults["p"]))))
    return tuple(found)


def _share(kind: Callable[..., Augmentation], strongest: float, magnitude: float) -> Augmentation:
    return kind(p=round(strongest * magnitude, 4))


def _of_the_papers(kind: Any, magnitude: float) -> Augmentation:
    operation = at_magnitude(kind, STRONGEST_MAGNITUDE * magnitude)
    # People read a policy: a fifth of 0.9 is 0.18.
    digits = {name: round(value, 6) for name, value in vars(operation).items() if isinstance(value, float)}
    return replace(operation, **digits)


PICTURES = (
    *(Strength(kind, partial(_of_the_papers, kind)) for kind in RANDOM_KINDS if kind != "Identity"),
    Strength("Flip", lambda m: Flip(0.5 * m)),
    Strength("ResizedCrop", lambda m: ResizedCrop(min_scale=round(1 - 0.9 * m, 3))),
    Strength("Scale", lambda m: Scale(smallest=1 - 0.5 * m, largest=1 + m)),
    Strength("Perspective", lambda m: Perspective(round(0.6 * m, 3), p=1.0)),
    Strength("Grayscale", lambda m: Grayscale(p=m)),
    Strength("Blur", lambda m: Blur(max_sigma=round(0.1 + 2.9 * m, 3), p=1.0)),
    Strength("Noise", lambda m: Noise(max_sigma=round(0.3 * m, 3), p=1.0)),
    Strength("Erase", lambda m: Erase(max_area=round(0.02 + 0.38 * m, 3), p=1.0)),
    Strength("Jpeg", lambda m: Jpeg(min_quality=round(95 - 85 * m), p=1.0)),
)
"""RandAugment's operations and those beside them."""


def space_of(batch: TextBatch | ImageBatch, why_no_mixing: str | None = None) -> tuple[Space, tuple[str, ...]]:
    """Every operation that goes with the data, and a line for each that does not.

    What runs a network of its own (SubstituteByModel, BackTranslate) is not among them: that is too slow in every epoch.

    Args:
        batch: a few training rows.
        why_no_mixing: why rows cannot be mixed with one another; None: they can.
    """
    is_text = isinstance(batch, TextBatch)
    fit, left_out = [], []
    for operation in _texts() if is_text else PICTURES:
        try:
            operation.at(1.0)(batch, generators(0, range(len(batch)), 0))
        except InputError as error:
            left_out.append(f"{operation.name} is not in the space: {error}")
        else:
            fit.append(operation)
    mixings = (Mixup,) if is_text else (Mixup, CutMix, ResizeMix)
    if why_no_mixing is not None:
        left_out.append(f"mixing rows is not in the space: {why_no_mixing}")
        mixings = ()
    return Space("text" if is_text else "image", tuple(fit), mixings), tuple(left_out)


def described(policy: Policy) -> str:
    """The policy on one line: `2 of SwapWords 0.4 | Typos 0.4`, or `SwapWords 0.4 x 0.6, Typos 0.2 | ... + Mixup 0.2`: name,
    magnitude (of what mixes rows: alpha), and the probability where it is not 1."""
    parts = [_moves_described(policy)] if policy.branches else []
    if (mix := policy.mix) is not None:
        parts.append(f"{mix.operation} {mix.alpha:g}" + ("" if mix.probability == 1 else f" x {mix.probability:g}"))
    return " + ".join(parts) or "none"


def _moves_described(policy: Policy) -> str:
    moves = [
        ", ".join(
            f"{m.operation} {m.magnitude:g}" + ("" if m.probability == 1 else f" x {m.probability:g}") for m in branch
        )
        for branch in policy.branches
    ]
    if len(moves) > 2 * BRANCHES:
        levels = sorted({m.magnitude for branch in policy.branches for m in branch})
        magnitude = f"{levels[0]:g}" if len(levels) == 1 else f"{levels[0]:g} to {levels[-1]:g}"
        return f"{policy.draws} of all operations at {magnitude}"
    return ("" if policy.draws == 1 else f"{policy.draws} of ") + " | ".join(moves)


def plain(policies: tuple[Policy, ...]) -> list[Any]:
    """Policies as JSON has them."""
    return [codec.to_plain(policy) for policy in policies]
