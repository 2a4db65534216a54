"""Operations made of operations, for texts and images alike."""

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
from hf_finetune.augmentation.text.operations import TextOperation
from hf_finetune.errors import InputError
from hf_finetune.utils.config import Choice, NonNegative, Operations, Probability, configclass


@configclass
class Compose:
    """One operation after another."""

    steps: Operations[Augmentation]
    """The operations, in order."""

    def __call__(self, batch: Any, rng: Rng) -> Any:
        """The batch after all of them."""
        return apply(self.steps, batch, rng)


@configclass
class OneOf:
    """For every row one of several operations, drawn at random."""

    choices: Annotated[Operations[Augmentation], MinLen(1)]
    """The operations to draw from."""
    weights: tuple[NonNegative, ...] = ()
    """How likely each is, relative to the others. (): all alike."""

    def __post_init__(self) -> None:
        if self.weights and (len(self.weights) != len(self.choices) or not 0 < sum(self.weights) < np.inf):
            raise InputError(
                f"OneOf.weights: expected {len(self.choices)} numbers, one for each choice and not all 0, "
                f"got {self.weights!r}"
            )

    def __call__(self, batch: Any, rng: Rng) -> Any:
        """The batch with each row changed by its choice."""
        rngs = each(rng, len(batch))
        shares = None if not self.weights else np.array(self.weights) / sum(self.weights)
        drawn = np.array([r.choice(len(self.choices), p=shares) for r in rngs], dtype=int)
        for number, operation in enumerate(self.choices):
            batch = _on(np.flatnonzero(drawn == number), operation, batch, rngs)
        return batch


@configclass
class Sometimes:
    """An operation on some of the rows."""

    operation: Choice[Augmentation]
    """What is done to them."""
    p: Probability = 0.5
    """Probability of each row."""
    by_class: Literal["all", "rare"] = "all"
    """all: p for every row. rare: p for rows of the rarest class, less for the others, in proportion to how rare they
    are; rows without a label count as those of the most frequent class."""

    def __call__(self, batch: Any, rng: Rng) -> Any:
        """The batch with some of its rows changed."""
        rngs = each(rng, len(batch))
        p = np.full(len(batch), self.p)
        if self.by_class == "rare" and batch.population is not None and batch.labels is not None:
            counts = batch.population.rows_per_class
            own = np.where(batch.labels < 0, counts.max(), counts[batch.labels])
            p = p * counts[counts > 0].min() / np.maximum(own, 1)
        chosen = np.array([r.random() for r in rngs]) < p
        return _on(np.flatnonzero(chosen), self.operation, batch, rngs)


@configclass
class Phases:
    """One operation after another over the training: a schedule of policies, as population-based search finds it
    (arXiv:1905.05393). For views that are made while training, as only there is a first step and a last one."""

    phases: Annotated[Operations[Augmentation], MinLen(1)]
    """What is done in each phase; `{type: Compose, steps: []}` is nothing."""
    starts: tuple[float, ...] = ()
    """Where each phase but the first starts, as a share of the training's steps. (): all are equally long."""

    def __post_init__(self) -> None:
        in_order = all(low < high for low, high in pairwise((0.0, *self.starts, 1.0)))
        if self.starts and not (in_order and len(self.starts) == len(self.phases) - 1):
            raise InputError(
                f"Phases.starts: expected {len(self.phases) - 1} rising numbers between 0 and 1, one for each phase "
                f"but the first, got {self.starts!r}"
            )

    def __call__(self, batch: Any, rng: Rng) -> Any:
        """The batch with each row changed by the operation of the phase it comes in.

        Raises:
            InputError: the rows are those of no training.
        """
        if batch.progress is None:
            raise InputError(
                "Phases: expected rows that come in the course of a training, got others; leave it out here"
            )
        rngs = each(rng, len(batch))
        starts = self.starts or [number / len(self.phases) for number in range(1, len(self.phases))]
        phase_B = np.searchsorted(starts, batch.progress, side="right")
        for number, operation in enumerate(self.phases):
            batch = _on(np.flatnonzero(phase_B == number), operation, batch, rngs)
        return batch


def _on(rows: np.ndarray, operation: Augmentation, batch: Any, rngs: list[np.random.Generator]) -> Any:
    """The batch with an operation done to the rows at these places."""
    if len(rows) == 0:
        return batch
    return batch.put(rows, apply([operation], batch.take(rows), [rngs[i] for i in rows]))


Composed = Compose | OneOf | Sometimes | Phases
TextAugmentation = TextOperation | Composed
ImageAugmentation = ImageOperation | Composed
Augmentation = TextOperation | ImageOperation | Composed


def walk(operations: Sequence[Augmentation]) -> Iterator[Augmentation]:
    """The operations and all that they are made of, however deep."""
    for operation in operations:
        yield operation
        match operation:
            case Compose(parts) | OneOf(parts) | Phases(parts):
                yield from walk(parts)
            case Sometimes(part):
                yield from walk([part])


def depends_on_progress(operations: Sequence[Augmentation]) -> bool:
    """Whether what they do to a row depends on how far the training is."""
    return any(isinstance(operation, Phases) for operation in walk(operations))


def leaves(operations: Sequence[Augmentation]) -> list[Augmentation]:
    """Those of `walk` that are not made of others."""
    return [operation for operation in walk(operations) if not isinstance(operation, Composed)]


def generative_operations(operations: Sequence[Augmentation]) -> list[GenerativeOperation]:
    """Those of `leaves` that ask a language model."""
    return [operation for operation in leaves(operations) if isinstance(operation, GenerativeOperation)]


def check_kind(operations: Sequence[Augmentation], kind: Literal["text", "image"], field: str = "data.augment") -> None:
    """Refuse an operation on images for texts, and the other way round, or one whose package is not installed.

    Args:
        field: that holds the operations.

    Raises:
        InputError: naming it, and those that there are, or how the package is installed.
    """
    union = TextOperation if kind == "text" else ImageOperation
    known = typing.get_args(union) or (union,)
    for operation in leaves(operations):
        if not isinstance(operation, known):
            raise InputError(
                f"{field}: {type(operation).__name__} is not for {'texts' if kind == 'text' else 'images'}; "
                f"expected one of {', '.join(k.__name__ for k in known)}"
            )
        if isinstance(operation, EachText):
            operation.check_installed()
