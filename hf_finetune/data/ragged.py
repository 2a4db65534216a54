"""Arrays with several values a row, as of the words of a sentence.

Legend: N rows, W values of all rows together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Ragged:
    """The values of N rows, one row after the other. It is indexed by row, as an array of one value a row is."""

    values: np.ndarray
    """Shape (W,) or (W, C)."""
    offsets: np.ndarray
    """First value of each row, and W; shape (N + 1,)."""

    @classmethod
    def of(cls, values: np.ndarray, lengths: Sequence[int] | np.ndarray) -> Ragged:
        """Divide values into rows of these lengths (N,)."""
        return cls(values, np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]))

    @classmethod
    def of_column(cls, column: pa.Array | pa.ChunkedArray) -> Ragged:
        """Return a column of lists of numbers."""
        lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        return cls.of(lists.flatten().to_numpy(zero_copy_only=False), lengths)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of values of each row, shape (N,)."""
        return np.diff(self.offsets)

    @cached_property
    def row_of_value(self) -> np.ndarray:
        """Row of each value, shape (W,)."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return self.values.dtype

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, rows: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> Ragged: ...
    def __getitem__(self, rows: Any) -> Any:
        """Return the values of a row, or of several rows by their numbers or a mask."""
        if isinstance(rows, int | np.integer):
            return self.values[self.offsets[rows] : self.offsets[rows + 1]]
        chosen = np.arange(len(self))[rows]
        return Ragged.of(self.values[places_of(chosen, self.lengths)], self.lengths[chosen])

    def like(self, values: np.ndarray) -> Ragged:
        """Return other values of the same rows."""
        return Ragged(values, self.offsets)

    def to_arrow(self, kind: pa.DataType | None = None) -> pa.Array:
        """Return the values as a column of lists."""
        return pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), pa.array(self.values, kind))


def places_of(rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the indices of all values of some rows, one row after the other.

    Args:
        rows: numbers of rows, in any order.
        lengths: number of values of each row, of all N.
    """
    counts = lengths[rows]
    starts = (np.cumsum(lengths) - lengths)[rows]
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())


def flat(values: Any) -> np.ndarray:
    """Return the values of all rows together, of an array of one value a row the array itself."""
    return values.values if isinstance(values, Ragged) else values


def join(parts: Sequence[Any]) -> Any:
    """Return the rows of several arrays, or of several `Ragged`, one after the other."""
    if not isinstance(parts[0], Ragged):
        return np.concatenate(parts)
    lengths = np.concatenate([part.lengths for part in parts])
    return Ragged.of(np.concatenate([part.values for part in parts]), lengths)


def with_values(like: Any, values: np.ndarray) -> Any:
    """Return values as those of the same rows as an array or a `Ragged`."""
    return like.like(values) if isinstance(like, Ragged) else values
