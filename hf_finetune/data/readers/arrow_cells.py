"""Read the cells of Arrow batches in pieces of bounded size.

Legend: N rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_finetune.data.config import DataLimits
from hf_finetune.data.image_paths import ImageFolder
from hf_finetune.data.readers.compressed import too_large
from hf_finetune.data.readers.table import DROP, Chunk, Fault
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import row_place

# Bytes of the cells of a piece; what a row costs beside its cells.
PIECE_BYTES, ROW_BYTES = 32_000_000, 64
# Most bytes of a character in UTF-8.
CHARACTER_BYTES = 4


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a source."""

    table: pa.Table
    place: str
    """The source, for messages."""
    first: int
    """Number of the first row, from 0."""
    faults: dict[int, Fault]
    """Rows that cannot be read, by their index. Cells that are too large are null already."""

    def chunk(self, columns: Sequence[str], images: ImageFolder | None, *, strict: bool) -> Chunk:
        """Return the rows as a chunk, see `values`."""
        values = {name: self.values(name, strict=strict) for name in columns}
        return Chunk(values, self.table.num_rows, self.place, self.first, images=images, faults=self.faults)

    def values(self, name: str, *, strict: bool) -> list:
        """Return the values of a column.

        Args:
            strict: False: a row with a text that is not UTF-8 is a fault.

        Raises:
            InputError: with `strict`, for such a text.
        """
        try:
            return self.table.column(name).to_pylist()
        except UnicodeDecodeError:
            values = []
            for i, value in enumerate(self.table.column(name)):
                try:
                    values.append(value.as_py())
                except UnicodeDecodeError:
                    fault = "the text is not UTF-8; write it again in UTF-8"
                    if strict:
                        place = f"{self.place}, {row_place(self.first + i)}, column {name!r}"
                        raise InputError(f"{place}: {fault}, or {DROP}") from None
                    self.faults[i] = Fault("undecodable row", f"column {name!r}: {fault}")
                    values.append(None)
            return values


def in_pieces(
    batches: Iterable[pa.RecordBatch],
    size: int,
    place: str,
    limits: DataLimits,
    *,
    most_bytes: int | None = None,
    strict: bool = True,
) -> Iterator[Piece]:
    """Join and cut batches to pieces of at most `size` rows and, unless a single row is larger, `PIECE_BYTES`.

    Args:
        place: the source, for messages.
        most_bytes: limit on all pieces together.
        strict: False: a row with a cell that is too large is a fault.

    Raises:
        InputError: with `strict`, a cell is larger than the limit; or all together are.
    """
    first, total = 0, 0
    waiting: list[pa.RecordBatch] = []
    faults: dict[int, Fault] = {}
    rows, size_of_waiting = 0, 0
    for batch in batches:
        bytes_N, too_large_cells = _row_bytes(batch, place, first + rows, limits, strict=strict)
        batch = _without(batch, too_large_cells)
        total += int(bytes_N.sum())
        if most_bytes is not None and total > most_bytes:
            raise too_large(place, most_bytes)
        start = 0
        while start < batch.num_rows:
            ends_N = np.cumsum(bytes_N[start:])
            room = int(np.searchsorted(ends_N, PIECE_BYTES - size_of_waiting, side="right"))
            count = min(room, size - rows, batch.num_rows - start) or (0 if rows else 1)
            if count:
                waiting.append(batch.slice(start, count))
                faults |= {i - start + rows: f for i, f in too_large_cells.items() if start <= i < start + count}
                rows, size_of_waiting, start = rows + count, size_of_waiting + int(ends_N[count - 1]), start + count
            if start < batch.num_rows or rows == size:
                yield Piece(pa.Table.from_batches(waiting), place, first, faults)
                first, rows, size_of_waiting, waiting, faults = first + rows, 0, 0, [], {}
    if waiting:
        yield Piece(pa.Table.from_batches(waiting), place, first, faults)


def _without(batch: pa.RecordBatch, rows: Collection[int]) -> pa.RecordBatch:
    """Return a batch with nulls in place of all cells of some rows."""
    if not rows:
        return batch
    indices = pa.array([None if i in rows else i for i in range(batch.num_rows)], pa.int64())
    return batch.take(indices)


def _row_bytes(
    batch: pa.RecordBatch, place: str, first: int, limits: DataLimits, *, strict: bool
) -> tuple[np.ndarray, dict[int, Fault]]:
    """Return the decoded size of each row (N,), int64, and the rows with a cell that is too large.

    Raises:
        InputError: with `strict`, a cell is larger than its limit.
    """
    total_N = np.full(batch.num_rows, ROW_BYTES, np.int64)
    faults: dict[int, Fault] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        bytes_N = _cell_bytes(column)
        is_text = pa.types.is_string(_value_type(column)) or pa.types.is_large_string(_value_type(column))
        most, flag = limits.image_bytes, "image-bytes"
        if is_text:
            most, flag = CHARACTER_BYTES * limits.text_characters, "text-characters"
        for row in np.flatnonzero(bytes_N > most).tolist():
            reason = f"{bytes_N[row]:,} bytes, expected at most {most:,}; shorten it, or raise --data.limits.{flag}"
            if strict:
                raise InputError(f"{place}, {row_place(first + row)}, column {name!r}: {reason}; {DROP}")
            faults[row] = Fault("too large", f"column {name!r}: {reason}")
        total_N += bytes_N
    total_N[list(faults)] = ROW_BYTES
    return total_N, faults


def _value_type(column: pa.Array) -> pa.DataType:
    return column.type.value_type if pa.types.is_dictionary(column.type) else column.type


def _cell_bytes(column: pa.Array) -> np.ndarray:
    """Return the size of each cell of texts, binary data, or structures of these; 0 for others."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        sizes, indices = _cell_bytes(column.dictionary), column.indices
        if not len(sizes):
            return np.zeros(len(column), np.int64)
        return np.where(column.is_valid(), sizes[indices.fill_null(0).to_numpy(zero_copy_only=False)], 0)
    if pa.types.is_struct(kind):
        return sum(map(_cell_bytes, column.flatten()), np.zeros(len(column), np.int64))
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        column = column.cast(pa.large_binary() if pa.types.is_binary_view(kind) else pa.large_string())
        kind = column.type
    if any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)) or (
        pa.types.is_large_binary(kind)
    ):
        return pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.zeros(len(column), np.int64)
