"""Augmentation operations: the batches they change, the random generators they draw from, and `apply`.

An operation is a frozen dataclass with `__call__(batch, rng) -> batch`. `rng` holds one generator per row, seeded by
(seed, row, epoch, view) alone. A row's view is therefore reproducible and independent of the other rows of its batch
and of the process that makes it. Operations change training rows only, never rows that are scored.

Legend: B rows of a batch, N training rows, C classes, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np

from hf_finetune.errors import InputError

if TYPE_CHECKING:
    import torch

Rng = np.random.Generator | Sequence[np.random.Generator]
"""One generator per row, or a single generator that spawns one for each row."""


@dataclass(frozen=True)
class Population:
    """The training rows, for operations that use other rows of a class or its frequency."""

    names: tuple[str, ...]
    """Class names."""
    labels: np.ndarray
    """Class indices, shape (N,), -1 for a row without a label; or a 0 or 1 for each tag, shape (N, C)."""
    texts: Sequence[str] = ()
    """Text of each row; () for images."""

    @cached_property
    def rows_per_class(self) -> np.ndarray:
        """Number of rows of each class or tag, shape (C,)."""
        if self.labels.ndim == 2:
            return (self.labels == 1).sum(axis=0)
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.names))

    @cached_property
    def _rows_without_tags(self) -> int:
        return int((self.labels == 0).all(axis=1).sum()) if self.labels.ndim == 2 else 0

    @cached_property
    def smallest_class(self) -> int:
        """Number of rows of the rarest class or tag that has some."""
        counts = np.append(self.rows_per_class, self._rows_without_tags)
        return int(counts[counts > 0].min())

    def class_sizes(self, labels: np.ndarray) -> np.ndarray:
        """Return the number of training rows of each row's class, or of its rarest tag, shape (B,).

        Rows without tags are a class of their own; those without a label count as of the most frequent class.

        Args:
            labels: of some rows, as `labels`.
        """
        counts_C = self.rows_per_class
        if labels.ndim == 1:
            return np.where(labels < 0, counts_C.max(), counts_C[labels])
        rarest_B = np.where(labels == 1, counts_C, np.iinfo(np.int64).max).min(axis=1)
        sizes_B = np.where((labels == 1).any(axis=1), rarest_B, self._rows_without_tags)
        return np.where((labels < 0).any(axis=1), counts_C.max(), sizes_B)

    @cached_property
    def rows_of(self) -> list[np.ndarray]:
        """Indices of the rows of each class, ascending."""
        return [np.flatnonzero(self.labels == label) for label in range(len(self.names))]


class Paraphrase(Protocol):
    """Runs generative operations. It comes with the batch, because operations load no models themselves; implemented by
    `generative.paraphraser.Paraphraser`."""

    def __call__(self, operation: Any, texts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """Return the texts as the operation changes them, each with its own seed."""

    def release(self) -> None:
        """Free the memory of the models."""


@dataclass(frozen=True)
class TextBatch:
    """Texts or pairs of texts, with their classes if known."""

    texts: list[str]
    pairs: list[str] | None = None
    labels: np.ndarray | None = None
    """Shape (B,)."""
    population: Population | None = None
    paraphrase: Paraphrase | None = None
    """Runs generative operations."""
    progress: np.ndarray | None = None
    """Share of the training's steps completed when each row is used, shape (B,); None outside training."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> Self:
        """Return the batch of these rows."""
        return replace(
            self,
            texts=[self.texts[i] for i in rows],
            pairs=None if self.pairs is None else [self.pairs[i] for i in rows],
            labels=_take(self.labels, rows),
            progress=_take(self.progress, rows),
        )

    def put(self, rows: np.ndarray, part: Self) -> Self:
        """Return the batch with these rows replaced by those of `part`."""
        return replace(
            self,
            texts=_put(self.texts, rows, part.texts),
            pairs=None if self.pairs is None else _put(self.pairs, rows, part.pairs or []),
        )

    def columns(self) -> dict[str, list[str]]:
        """Return the columns `text` and, for pairs, `text_pair`."""
        return {"text": self.texts} | ({} if self.pairs is None else {"text_pair": self.pairs})


@dataclass(frozen=True)
class ImageBatch:
    """Images of one size, before rescaling and normalization."""

    pixels: torch.Tensor
    """Shape (B, 3, H, W), uint8."""
    labels: np.ndarray | None = None
    """Shape (B,)."""
    population: Population | None = None
    progress: np.ndarray | None = None
    """As in `TextBatch`."""

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: np.ndarray) -> Self:
        """Return the batch of these rows."""
        labels, progress = _take(self.labels, rows), _take(self.progress, rows)
        return replace(self, pixels=self.pixels[rows], labels=labels, progress=progress)

    def put(self, rows: np.ndarray, part: Self) -> Self:
        """Return the batch with these rows replaced by those of `part`."""
        pixels = self.pixels.clone()
        pixels[rows] = part.pixels
        return replace(self, pixels=pixels)


def _take(values_B: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if values_B is None else values_B[rows]


def _put(texts: list[str], rows: np.ndarray, replacements: list[str]) -> list[str]:
    by_row = dict(zip(rows.tolist(), replacements, strict=True))
    return [by_row.get(i, text) for i, text in enumerate(texts)]


class Graded:
    """An operation whose strength is one number, so that policy search can vary it.

    The image operations of RandAugment (Rotate, Shear, Translate and those of color) are not graded: the search
    (`search.augmentation.space`) takes their strengths from the published scale.
    """

    by_strength: ClassVar[dict[str, tuple[float, float]]] = {}
    """Fields that depend linearly on the strength, with their values at strengths 0 and 1."""

    @classmethod
    def from_strength(cls, strength: float) -> Self:
        """Return the operation at a strength in (0, 1]."""
        values = {name: low + (high - low) * strength for name, (low, high) in cls.by_strength.items()}
        is_int = {name: isinstance(low, int) for name, (low, _) in cls.by_strength.items()}
        return cls(**{name: round(value) if is_int[name] else round(value, 3) for name, value in values.items()})


class Operation(Protocol):
    """The call signature of every augmentation."""

    def __call__(self, batch: Any, rng: Rng) -> Any:
        """Return a changed batch; the input batch is not modified."""


def generators(seed: int, rows: Iterable[int], epoch: int, view: int | Iterable[int] = 0) -> list[np.random.Generator]:
    """Return one generator per row.

    Args:
        rows: indices among the training rows.
        epoch: from 0.
        view: index among several views of a row in one epoch; one number for all rows, or one per row.
    """
    views = repeat(view) if isinstance(view, int) else view
    return [np.random.default_rng((seed, int(row), epoch, int(v))) for row, v in zip(rows, views, strict=False)]


def each(rng: Rng, count: int) -> list[np.random.Generator]:
    """Return one generator per row: the given ones, or children of a single generator."""
    if isinstance(rng, np.random.Generator):
        return rng.spawn(count)
    assert len(rng) == count, f"{len(rng)} generators for {count} rows"
    return list(rng)


def apply(operations: Iterable[Operation], batch: Any, rng: Rng) -> Any:
    """Apply the operations to a batch, one after another.

    Raises:
        InputError: an operation returns an empty text.
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
