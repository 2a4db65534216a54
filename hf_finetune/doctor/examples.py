"""The examples that the doctor checks.

Legend: N rows of all splits together, C classes, tags or targets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from scipy import sparse

from hf_finetune.data.config import Kind, TaskName
from hf_finetune.data.image_decoding import EncodedImage
from hf_finetune.data.labels import labels_of
from hf_finetune.data.ragged import Ragged, join
from hf_finetune.utils.messages import listed

# Longest quotation of a text in characters.
QUOTED = 60
SAME = 0.5
"""Difference of two numbers that is no contradiction, in units of the target's deviation."""


@dataclass(frozen=True)
class Examples:
    """The labeled rows of all splits, concatenated, training rows first."""

    splits: Mapping[str, Dataset]
    """Canonical rows by split, see `data.loading.Splits`; `train` first."""
    names: tuple[str, ...]
    """Names of the classes, tags or targets, in the order of the labels."""
    digests: tuple[bytes, ...]
    """Digest of each row's input, see `data.duplicates.row_digests`."""
    task: TaskName
    """What the labels are for, see `labels.CHECKS`."""

    def __len__(self) -> int:
        return len(self.digests)

    @cached_property
    def split_N(self) -> np.ndarray:
        """Index of each row's split."""
        return np.repeat(np.arange(len(self.splits)), [len(rows) for rows in self.splits.values()])

    @cached_property
    def row_N(self) -> np.ndarray:
        """Number of each row in its source, from 0."""
        return np.concatenate([np.asarray(rows["row"][:]) for rows in self.splits.values()])

    @cached_property
    def labels(self) -> Any:
        """Class id of each row, shape (N,); a 0 or 1 for each tag, or numbers, shape (N, C); of words `Ragged`."""
        return join([labels_of(rows) for rows in self.splits.values()])

    @cached_property
    def has_label_NC(self) -> sparse.csr_array:
        """Whether each row has each class or tag."""
        if isinstance(self.labels, Ragged):
            row_C, tag_C = np.unique(np.stack([self.labels.row_of_value, self.labels.values]), axis=1)
            return sparse.csr_array((np.ones(len(row_C)), (row_C, tag_C)), shape=(len(self), len(self.names)))
        if self.labels.ndim == 2:
            return sparse.csr_array(self.labels, dtype=np.float64)
        rows = len(self)
        return sparse.csr_array((np.ones(rows), (np.arange(rows), self.labels)), shape=(rows, len(self.names)))

    @cached_property
    def tolerance(self) -> np.ndarray | float:
        """Difference up to which two numbers count as the same label, for each target."""
        if self.labels.dtype.kind != "f":
            return 0.0
        deviation: np.ndarray = self.labels[self.split_N == 0].std(axis=0)
        return SAME * deviation

    def labels_differ(self, i: int, j: int) -> bool:
        """Return whether two rows have different labels: other classes or tags, or numbers further apart than noise."""
        one, other = self.labels[i], self.labels[j]
        return np.shape(one) != np.shape(other) or bool(np.any(np.abs(one - other) > self.tolerance))

    @property
    def kind(self) -> Kind:
        """What the rows are."""
        return "text" if "text" in self.splits["train"].column_names else "image"

    @cached_property
    def sides(self) -> list[list[str]]:
        """The texts of all rows, and for pairs the second texts."""
        names = [name for name in ("text", "text_pair") if name in self.splits["train"].column_names]
        return [[text or "" for rows in self.splits.values() for text in rows[name][:]] for name in names]

    def joined_text(self, i: int, separator: str) -> str:
        """Return the text of a row, or both texts of its pair."""
        return separator.join(side[i] for side in self.sides)

    def images(self, start: int, stop: int) -> list[EncodedImage]:
        """Return the encoded images of consecutive rows."""
        images: list[EncodedImage] = []
        first = 0
        for rows in self.splits.values():
            part = range(max(start - first, 0), min(stop - first, len(rows)))
            images += rows.select(part)["image"][:] if part else []
            first += len(rows)
        return images

    def split(self, i: int) -> str:
        """Return the name of a row's split."""
        return list(self.splits)[self.split_N[i]]

    def place(self, i: int) -> str:
        """Return split and number of a row, for messages: `train row 12`."""
        return f"{self.split(i)} row {self.row_N[i]}"

    def label(self, i: int) -> str:
        """Return the class of a row, its tags or its number, for messages."""
        if self.labels.dtype.kind == "f":
            return ", ".join(f"{number:g}" for number in self.labels[i])
        if isinstance(self.labels, Ragged):
            return listed([self.names[c] for c in self.labels[i]])
        if self.labels.ndim == 2:
            return listed([self.names[c] for c in np.flatnonzero(self.labels[i])]) or "without tags"
        return self.names[self.labels[i]]

    def quote(self, i: int) -> str:
        """Return the beginning of a row's text, or the name of its image file, if any."""
        if self.kind == "image":
            path = self.images(i, i + 1)[0]["path"]
            return "" if path is None else Path(path).name
        text = " ".join(self.joined_text(i, " | ")[: 4 * QUOTED].split())
        return text if len(text) <= QUOTED else f"{text[: QUOTED - 3]}..."

    def comparable(self, characters: int, seed: int = 0) -> np.ndarray:
        """Return the sorted indices of random rows, all if their texts have at most this many characters together.

        Those of a text that is not ASCII count three times: splitting it into words takes that much longer.
        """
        lengths_N = np.sum([[len(text) * (1 if text.isascii() else 3) for text in side] for side in self.sides], axis=0)
        order_N = np.random.default_rng(seed).permutation(len(self))
        return np.sort(order_N[np.cumsum(lengths_N[order_N]) <= characters])

    def sample(self, most: int, seed: int = 0) -> np.ndarray:
        """Return the sorted indices of up to `most` random rows."""
        if len(self) <= most:
            return np.arange(len(self))
        return np.sort(np.random.default_rng(seed).permutation(len(self))[:most])
