"""Augmentation: rows of a batch changed at random, each by its own random numbers.

An operation is a frozen dataclass with `__call__(batch, rng) -> batch`. `rng` holds one generator a row, made of (seed, row,
epoch, view) alone, so a row's view does not depend on what else is in its batch or which process has it, and can be made
again. Operations change training rows only; nothing here is near the rows that are scored.

Legend: B rows of a batch, H height, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from hf_finetune.errors import InputError

if TYPE_CHECKING:
    import torch

Rng = np.random.Generator | Sequence[np.random.Generator]
"""One generator a row; of a single one, each row gets a child."""


@dataclass(frozen=True)
class Population:
    """The training rows, for operations that borrow from other rows of a class or look at how rare a class is."""

    names: tuple[str, ...]
    """Class names, index = number."""
    labels: np.ndarray
    """Class of each row, shape (N,); -1 of one without a label."""
    texts: Sequence[str] = ()
    """Text of each row; () for pictures."""

    @cached_property
    def rows_per_class(self) -> np.ndarray:
        """Shape (C,)."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.names))

    @cached_property
    def rows_of(self) -> list[np.ndarray]:
        """Rows of each class, in order."""
        return [np.flatnonzero(self.labels == label) for label in range(len(self.names))]


class Reword(Protocol):
    """Language models at work: this floor knows none, they come with the batch. See `augmentation.generative.cache`."""

    def __call__(self, operation: Any, texts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """The texts as an operation of `text_models` changes them, each by the random numbers of its own seed."""


@dataclass(frozen=True)
class TextBatch:
    """Texts, or pairs of texts, with their classes where they are known."""

    texts: list[str]
    pairs: list[str] | None = None
    labels: np.ndarray | None = None
    """Shape (B,)."""
    population: Population | None = None
    reword: Reword | None = None
    """For operations that ask a language model."""
    progress: np.ndarray | None = None
    """Share of the training's steps that are over when each row comes, shape (B,); None: there is no training."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> Self:
        """The rows at these places."""
        return replace(
            self,
            texts=[self.texts[i] for i in rows],
            pairs=None if self.pairs is None else [self.pairs[i] for i in rows],
            labels=None if self.labels is None else self.labels[rows],
            progress=None if self.progress is None else self.progress[rows],
        )

    def put(self, rows: np.ndarray, part: Self) -> Self:
        """With the rows at these places exchanged for those of `part`."""
        texts, pairs = list(self.texts), None if self.pairs is None else list(self.pairs)
        for place, i in enumerate(rows):
            texts[i] = part.texts[place]
            if pairs is not None:
                pairs[i] = part.pairs[place]
        return replace(self, texts=texts, pairs=pairs)


@dataclass(frozen=True)
class ImageBatch:
    """Pictures of one size, before they are rescaled and normalised."""

    pixels: torch.Tensor
    """Shape (B, 3, H, W), uint8."""
    labels: np.ndarray | None = None
    """Shape (B,)."""
    population: Population | None = None
    progress: np.ndarray | None = None
    """See `TextBatch`."""

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: np.ndarray) -> Self:
        """The rows at these places."""
        return replace(
            self,
            pixels=self.pixels[rows],
            labels=None if self.labels is None else self.labels[rows],
            progress=None if self.progress is None else self.progress[rows],
        )

    def put(self, rows: np.ndarray, part: Self) -> Self:
        """With the rows at these places exchanged for those of `part`."""
        pixels = self.pixels.clone()
        pixels[rows] = part.pixels
        return replace(self, pixels=pixels)


class Operation(Protocol):
    """What every augmentation can do."""

    def __call__(self, batch: Any, rng: Rng) -> Any:
        """The batch with its rows changed; the one that came in stays as it was."""


def generators(seed: int, rows: Iterable[int], epoch: int, view: int | Iterable[int] = 0) -> list[np.random.Generator]:
    """A generator for each row.

    Args:
        seed: of the run.
        rows: numbers of the rows among the training rows.
        epoch: from 0.
        view: which of several looks at a row in the same epoch; one for all rows, or one for each.
    """
    views = repeat(view) if isinstance(view, int) else view
    return [np.random.default_rng((seed, int(row), epoch, int(v))) for row, v in zip(rows, views, strict=False)]


def each(rng: Rng, count: int) -> list[np.random.Generator]:
    """One generator a row, of those given or of a single one."""
    if isinstance(rng, np.random.Generator):
        return rng.spawn(count)
    assert len(rng) == count, f"{len(rng)} generators for {count} rows"
    return list(rng)


def change_texts(batch: TextBatch, rng: Rng, change: Callable[[str, np.random.Generator], str]) -> TextBatch:
    """The batch with every text, and every second text of a pair, sent through `change`."""
    rngs = each(rng, len(batch))
    texts = [change(text, r) for text, r in zip(batch.texts, rngs, strict=True)]
    pairs = batch.pairs
    if pairs is not None:
        pairs = [change(text, r) if text.strip() else text for text, r in zip(pairs, rngs, strict=True)]
    return replace(batch, texts=texts, pairs=pairs)


class EachText(ABC):
    """An operation that changes every text by itself, and both texts of a pair."""

    def __call__(self, batch: TextBatch, rng: Rng) -> TextBatch:
        """The batch with each text sent through `change`.

        Raises:
            InputError: see `check_installed`.
        """
        self.check_installed()
        return change_texts(batch, rng, self.change)

    def check_installed(self) -> None:  # noqa: B027 most operations need none
        """Refuse to go without a package that is needed.

        Raises:
            InputError: naming it, and how it is installed.
        """

    @abstractmethod
    def change(self, text: str, rng: np.random.Generator) -> str:
        """A text as another."""


def apply(operations: Iterable[Operation], batch: Any, rng: Rng) -> Any:
    """All operations, one after another, on a batch.

    Raises:
        InputError: a text came out empty.
    """
    rngs = each(rng, len(batch))
    for operation in operations:
        changed = operation(batch, rngs)
        if isinstance(changed, TextBatch):
            texts = zip([*batch.texts, *(batch.pairs or ())], [*changed.texts, *(changed.pairs or ())], strict=True)
            for before, after in texts:
                if not after.strip() and before.strip():
                    raise InputError(
                        f"data.augment: {operation!r} leaves nothing of the text {before[:60]!r}: expected a text; "
                        "lower its strength or leave it out"
                    )
        batch = changed
    return batch


def expect(operation: Any, name: str, low: float, high: float) -> None:
    """Refuse a field of an operation that is out of its range.

    Raises:
        InputError: naming the operation, the field, the range and the value.
    """
    value = getattr(operation, name)
    if not low <= value <= high:
        raise InputError(f"{type(operation).__name__}.{name}: expected {low:g} to {high:g}, got {value!r}")


def expect_one_of(operation: Any, name: str, choices: Iterable[str]) -> None:
    """Refuse a field that is none of its choices.

    Raises:
        InputError: naming the operation, the field, the choices and the value.
    """
    value, choices = getattr(operation, name), tuple(choices)
    if value not in choices:
        raise InputError(f"{type(operation).__name__}.{name}: expected one of {', '.join(choices)}, got {value!r}")
