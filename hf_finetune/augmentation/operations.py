"""Augmentation: rows of a batch changed at random, each by its own random numbers.

An operation is a frozen dataclass with `__call__(batch, rng) -> batch`. `rng` holds one generator a row, made of (seed,
row, epoch, view) alone, so a row's view does not depend on what else is in its batch or which process has it, and can
be made again. Operations change training rows only; nothing here is near the rows that are scored.

Legend: B rows of a batch, H height, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
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
    """The training rows, for operations that borrow from rows of the same class or depend on how rare a class is."""

    names: tuple[str, ...]
    """Class names, index = number."""
    labels: np.ndarray
    """Class of each row, shape (N,); -1 of one without a label."""
    texts: Sequence[str] = ()
    """Text of each row; () for images."""

    @cached_property
    def rows_per_class(self) -> np.ndarray:
        """Shape (C,)."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.names))

    @cached_property
    def rows_of(self) -> list[np.ndarray]:
        """Rows of each class, in order."""
        return [np.flatnonzero(self.labels == label) for label in range(len(self.names))]


class Paraphrase(Protocol):
    """Language models that change texts. They come with the batch: operations load none, see
    `generative.paraphraser`."""

    def __call__(self, operation: Any, texts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """The texts as an operation of `augmentation.generative` changes them, each by the random numbers of its
        seed."""

    def release(self) -> None:
        """Give back the memory of the models."""


@dataclass(frozen=True)
class TextBatch:
    """Texts, or pairs of texts, with their classes where they are known."""

    texts: list[str]
    pairs: list[str] | None = None
    labels: np.ndarray | None = None
    """Shape (B,)."""
    population: Population | None = None
    paraphrase: Paraphrase | None = None
    """For operations with a language model."""
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
            labels=_at(self.labels, rows),
            progress=_at(self.progress, rows),
        )

    def put(self, rows: np.ndarray, part: Self) -> Self:
        """With the rows at these places exchanged for those of `part`."""
        return replace(
            self,
            texts=_exchanged(self.texts, rows, part.texts),
            pairs=None if self.pairs is None else _exchanged(self.pairs, rows, part.pairs or []),
        )

    def columns(self) -> dict[str, list[str]]:
        """Columns of canonical rows: `text`, and `text_pair` where there is one."""
        return {"text": self.texts} | ({} if self.pairs is None else {"text_pair": self.pairs})


@dataclass(frozen=True)
class ImageBatch:
    """Images of one size, before they are rescaled and normalized."""

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
        return replace(self, pixels=self.pixels[rows], labels=_at(self.labels, rows), progress=_at(self.progress, rows))

    def put(self, rows: np.ndarray, part: Self) -> Self:
        """With the rows at these places exchanged for those of `part`."""
        pixels = self.pixels.clone()
        pixels[rows] = part.pixels
        return replace(self, pixels=pixels)


def _at(values_B: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if values_B is None else values_B[rows]


def _exchanged(texts: list[str], rows: np.ndarray, others: list[str]) -> list[str]:
    new = dict(zip(rows.tolist(), others, strict=True))
    return [new.get(i, text) for i, text in enumerate(texts)]


class Graded(ABC):
    """An operation whose strength is one number, which policy search varies."""

    @classmethod
    @abstractmethod
    def of_strength(cls, strength: float) -> Self:
        """The operation at a strength above 0, to 1."""


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
    """One generator a row; of a single one, its children."""
    if isinstance(rng, np.random.Generator):
        return rng.spawn(count)
    assert len(rng) == count, f"{len(rng)} generators for {count} rows"
    return list(rng)


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
