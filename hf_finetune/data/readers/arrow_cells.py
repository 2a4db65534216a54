"""Read the cells of Arrow batches in pieces of bounded size.

Legend: N rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_finetune.data.config import DataLimits
from hf_finetune.data.readers.compressed import too_large
from hf_finetune.errors import InputError

# Bytes of the cells of a piece; what a row costs beside its cells.
PIECE_BYTES, ROW_BYTES = 32_000_000, 64
# Most bytes of a character in UTF-8.
CHARACTER_BYTES = 4


def in_pieces(
    batches: Iterable[pa.RecordBatch], size: int, place: str, limits: DataLimits, *, most_bytes: int | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Join and cut batches to pieces of at most `size` rows and, unless a single row is larger, `PIECE_BYTES`.

    Args:
        place: the source, for messages.
        most_bytes: limit on all pieces together.

    Yields:
        The number of the first row, from 0, and the piece.

    Raises:
        InputError: a cell, or all together, are larger than the limit.
    """
    first, total = 0, 0
    waiting: list[pa.RecordBatch] = []
    rows, size_of_waiting = 0, 0
    for batch in batches:
        bytes_N = _row_bytes(batch, place, first + rows, limits)
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
                rows, size_of_waiting, start = rows + count, size_of_waiting + int(ends_N[count - 1]), start + count
            if start < batch.num_rows or rows == size:
                yield first, pa.Table.from_batches(waiting)
                first, rows, size_of_waiting, waiting = first + rows, 0, 0, []
    if waiting:
        yield first, pa.Table.from_batches(waiting)


def cell_values(table: pa.Table, name: str, place: str, first: int) -> list:
    """Return the values of a column.

    Args:
        place, first: the source and its first row in this table, for messages.

    Raises:
        InputError: a text is not UTF-8.
    """
    try:
        return table.column(name).to_pylist()
    except UnicodeDecodeError:
        for i, value in enumerate(table.column(name)):
            try:
                value.as_py()
            except UnicodeDecodeError:
                raise InputError(
                    f"{place}, row {first + i + 1}, column {name!r}: the text is not UTF-8; write it again in UTF-8"
                ) from None
        raise


def _row_bytes(batch: pa.RecordBatch, place: str, first: int, limits: DataLimits) -> np.ndarray:
    """Return the decoded size of each row (N,), int64.

    Raises:
        InputError: a cell is larger than its limit.
    """
    total_N = np.full(batch.num_rows, ROW_BYTES, np.int64)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        bytes_N = _cell_bytes(column)
        is_text = pa.types.is_string(_value_type(column)) or pa.types.is_large_string(_value_type(column))
        most, flag = limits.image_bytes, "image-bytes"
        if is_text:
            most, flag = CHARACTER_BYTES * limits.text_characters, "text-characters"
        if len(bytes_N) and bytes_N.max() > most:
            row = int(bytes_N.argmax())
            raise InputError(
                f"{place}, row {first + row + 1}, column {name!r}: {bytes_N[row]:,} bytes, expected at most {most:,}; "
                f"shorten it, or raise --data.limits.{flag}"
            )
        total_N += bytes_N
    return total_N


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
