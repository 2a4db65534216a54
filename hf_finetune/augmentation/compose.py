"""Combinators: operations made of other operations, for texts and images alike."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import MinLen

from hf_finetune.augmentation.generative.base import GenerativeOperation
from hf_finetune.augmentation.image.operations import ImageOperation
from hf_finetune.augmentation.operations import Rng, apply, each
from hf_finetune.augmentation.text.base import EachText
from hf_finetune.augmentation.text.operations import LanguageOperation, TextOperation
from hf_finetune.augmentation.text.sentences import MixHalves
from hf_finetune.augmentation.text.sequences import SequenceOperation
from hf_finetune.data.config import Kind
from hf_finetune.errors import InputError
from hf_finetune.utils.config import Choice, NonNegative, Operations, Probability, configclass
from hf_finetune.utils.sequences import NAMES, SequenceKind


@configclass
class Compose:
    """Apply several operations, one after another."""

    steps: Operations[Augmentation]
    """The operations, in order."""

    def __call__(self, batch: Any, rng: Rng) -> Any:
        """Apply all steps to the batch."""
        return apply(self.steps, batch, rng)


@configclass
class OneOf:
    """Apply one of several operations, drawn at random for each row."""

    choices: Annotated[Operations[Augmentation], MinLen(1)]
    """The operations to draw from."""
    weights: tuple[NonNegative, ...] = ()
    """Relative probability of each choice. (): all equal."""

    def __post_init__(self) -> None:
        if self.weights and (len(self.weights) != len(self.choices) or not 0 < sum(self.weights) < np.inf):
            raise InputError(
                f"OneOf.weights: expected {len(self.choices)} numbers, one for each choice and not all 0, "
                f"got {self.weights!r}"
            )

    def __call__(self, batch: Any, rng: Rng) -> Any:
        """Draw a choice for each row, and apply it."""
        rngs = each(rng, len(batch))
        shares = None if not self.weights else np.array(self.weights) / sum(self.weights)
        drawn = [r.choice(len(self.choices), p=shares) for r in rngs]
        return _apply_each_to(self.choices, np.array(drawn, dtype=int), batch, rngs)


@configclass
class Sometimes:
    """Apply an operation to some of the rows."""

    operation: Choice[Augmentation]
    """The operation."""
    p: Probability = 0.5
    """Probability of each row."""
    by_class: Literal["all", "rare"] = "all"
    """all: p for every row. rare: p for rows of the rarest class, and less for other classes in inverse proportion to
    their size; rows without a label count as the most frequent class. A row of several tags counts as its rarest."""

    def __call__(self, batch: Any, rng: Rng) -> Any:
        """Draw the rows, and apply the operation to them."""
        rngs = each(rng, len(batch))
        p = np.full(len(batch), self.p)
        if self.by_class == "rare" and batch.population is not None and batch.labels is not None:
            population = batch.population
            p = p * population.smallest_class / np.maximum(population.class_sizes(batch.labels), 1)
        is_chosen = np.array([r.random() for r in rngs]) < p
        return _apply_to(np.flatnonzero(is_chosen), self.operation, batch, rngs)


@configclass
class Phases:
    """Apply one operation after another over the course of training, as in the policy schedules of population-based
    augmentation (arXiv:1905.05393). For online augmentation only."""

    phases: Annotated[Operations[Augmentation], MinLen(1)]
    """The operation of each phase; `{type: Compose, steps: []}` changes nothing."""
    starts: tuple[float, ...] = ()
    """Start of each phase but the first, as a share of the training's steps. (): phases of equal length."""

    def __post_init__(self) -> None:
        in_order = all(low < high for low, high in pairwise((0.0, *self.starts, 1.0)))
        if self.starts and not (in_order and len(self.starts) == len(self.phases) - 1):
            raise InputError(
                f"Phases.starts: expected {len(self.phases) - 1} rising numbers between 0 and 1, one for each phase "
                f"but the first, got {self.starts!r}"
            )

    def __call__(self, batch: Any, rng: Rng) -> Any:
        """Apply to each row the operation of its phase.

        Raises:
            InputError: the batch does not come from training.
        """
        if batch.progress is None:
            raise InputError("Phases: expected rows of a training step, got others; leave it out here")
        starts = self.starts or [number / len(self.phases) for number in range(1, len(self.phases))]
        phase_B = np.searchsorted(starts, batch.progress, side="right")
        return _apply_each_to(self.phases, phase_B, batch, each(rng, len(batch)))


def _apply_each_to(
    operations: Sequence[Augmentation], choice_B: np.ndarray, batch: Any, rngs: list[np.random.Generator]
) -> Any:
    """Apply to each row the operation with the row's index in `choice_B`."""
    for number, operation in enumerate(operations):
        batch = _apply_to(np.flatnonzero(choice_B == number), operation, batch, rngs)
    return batch


def _apply_to(rows: np.ndarray, operation: Augmentation, batch: Any, rngs: list[np.random.Generator]) -> Any:
    if len(rows) == 0:
        return batch
    return batch.put(rows, apply([operation], batch.take(rows), [rngs[i] for i in rows]))


Composed = Compose | OneOf | Sometimes | Phases
TextAugmentation = TextOperation | Composed
ImageAugmentation = ImageOperation | Composed
Augmentation = TextOperation | ImageOperation | Composed


def walk(operations: Sequence[Augmentation]) -> Iterator[Augmentation]:
    """Yield the operations and everything they are composed of, depth first."""
    for operation in operations:
        yield operation
        match operation:
            case Compose(parts) | OneOf(parts) | Phases(parts):
                yield from walk(parts)
            case Sometimes(part):
                yield from walk([part])


def depends_on_progress(operations: Sequence[Augmentation]) -> bool:
    """Return whether the operations change with the progress of training."""
    return any(isinstance(operation, Phases) for operation in walk(operations))


def leaves(operations: Sequence[Augmentation]) -> list[Augmentation]:
    """Return all operations that are not combinators."""
    return [operation for operation in walk(operations) if not isinstance(operation, Composed)]


def needs_one_class(operations: Sequence[Augmentation]) -> bool:
    """Return whether an operation joins rows of one class."""
    return any(isinstance(operation, MixHalves) for operation in walk(operations))


def favors_rare(operations: Sequence[Augmentation]) -> bool:
    """Return whether an operation is for rows of rare classes or tags more than for others."""
    return any(isinstance(operation, Sometimes) and operation.by_class == "rare" for operation in walk(operations))


def generative_operations(operations: Sequence[Augmentation]) -> list[GenerativeOperation]:
    """Return all operations that run a language model."""
    return [operation for operation in walk(operations) if isinstance(operation, GenerativeOperation)]


def check_kind(
    operations: Sequence[Augmentation],
    kind: Kind,
    field: str = "data.augment",
    sequence: SequenceKind | None = None,
) -> None:
    """Refuse operations for other data than these, and operations whose package is missing.

    Args:
        field: the recipe field or flag that holds the operations, for the message.
        sequence: what the texts are, if they are sequences.

    Raises:
        InputError: naming the operation, and the alternatives or the command that installs the package.
    """
    data = f"{kind}s" if sequence is None else NAMES[sequence]
    members = _members(kind, sequence)
    for operation in leaves(operations):
        if not isinstance(operation, members):
            expected = f"one of {', '.join(member.__name__ for member in members)}" if members else "none"
            if isinstance(operation, SequenceOperation) and sequence is None and kind == "text":
                expected = "it with --sequence dna or rna alone"
            raise InputError(f"{field}: {type(operation).__name__} is not for {data}; expected {expected}")
        if isinstance(operation, EachText):
            operation.check_installed()


def _members(kind: Kind, sequence: SequenceKind | None) -> tuple[type, ...]:
    """Return the operations for these data."""
    if kind == "image":
        return typing.get_args(ImageOperation)
    if sequence is None:
        return typing.get_args(LanguageOperation)
    # A protein is read in one direction, and what changes words would change a whole sequence.
    return () if sequence == "protein" else (SequenceOperation,)
