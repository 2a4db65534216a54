"""Reader of parquet files, and the content of Arrow columns."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image, List

from hf_finetune.data.image_paths import beside
from hf_finetune.data.readers.arrow_cells import in_pieces
from hf_finetune.data.readers.compressed import most_decoded, too_large
from hf_finetune.data.readers.table import Chunk, Column, DataFile, check_columns, check_rows
from hf_finetune.errors import InputError

# A data set that declares more classes is read without their names.
MOST_CLASSES = 100_000
# Rows are decoded in batches of at most ROWS_OF_A_BATCH, and BATCH_BYTES if each repeats a whole dictionary.
ROWS_OF_A_BATCH, BATCH_BYTES = 64, 100_000_000


@dataclass(frozen=True)
class ParquetFile(DataFile):
    """A parquet file, read with the features that `datasets` wrote into it."""

    def columns(self) -> dict[str, Column]:
        """Return the columns in order.

        Raises:
            InputError: the file is damaged, or no parquet file.
        """
        with self._open() as file:
            schema = file.schema_arrow
            names = schema.names  # refused here if they are not UTF-8
        check_columns(self.name, len(names), self.limits)
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise InputError(f"{self.path}: two columns are called {twice[0]!r}; rename one of them")
        return arrow_columns(schema, _features(schema))

    def chunks(self, columns: Sequence[str], size: int) -> Iterator[Chunk]:
        """Yield rows in order, at most `size` at a time.

        Raises:
            InputError: the file is damaged, no parquet file, has no rows, or is beyond the limits.
        """
        images, empty = beside(self.path, self.image_root), True
        with self._open() as file:
            check_rows(self.name, file.metadata.num_rows, self.path.stat().st_size, self.limits)
            most = most_decoded(self.path, self.limits)
            parts = _parts_of(self.path, file, columns)
            if sum(part.total_uncompressed_size for part in parts) > most:
                # That is what the file declares; `in_pieces` counts what it decodes to.
                raise too_large(self.name, most)
            batches = file.iter_batches(_rows_of_a_batch(self.path, parts), columns=list(columns))
            strict = not self.yields_faults
            for part in in_pieces(batches, size, self.name, self.limits, most_bytes=most, strict=strict):
                empty = False
                yield part.chunk(columns, images, strict=strict)
        if empty:
            raise InputError(f"{self.path}: the file holds no rows")

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        try:
            with pq.ParquetFile(self.path) as file:
                yield file
        except InputError:
            raise
        # Besides Arrow's own: names that are not UTF-8, offsets that are none.
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{self.path}: not a readable parquet file ({reason[:150]}); write it again") from None


class _DataRequested(Exception):
    """A reader asks for data after the file was opened."""


class _WithoutData(io.FileIO):
    """A parquet file that is read only to be opened: its metadata."""

    is_open = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Return bytes, or refuse them once the file is open."""
        if self.is_open:
            raise _DataRequested
        return super().read(-1 if size is None else size)


def _parts_of(path: Path, file: pq.ParquetFile, columns: Sequence[str]) -> list[pq.ColumnChunkMetaData]:
    """Return the metadata of the parts of columns, one in each row group.

    Where they are damaged, `RowGroupMetaData.column` ends the process (pyarrow 26), so a reader that reports the damage
    checks them first.

    Raises:
        OSError: they are damaged.
    """
    metadata = file.metadata
    paths = {i: file.schema.column(i).path for i in range(metadata.num_columns)}
    paths = {i: path for i, path in paths.items() if any(f"{path}.".startswith(f"{name}.") for name in columns)}
    parts = []
    with _WithoutData(path) as raw, pq.ParquetFile(raw) as checked:
        raw.is_open = True
        for group in range(metadata.num_row_groups):
            for i, name in paths.items():
                with suppress(_DataRequested, StopIteration):
                    next(checked.iter_batches(1, row_groups=[group], columns=[name], use_threads=False))
                parts.append(metadata.row_group(group).column(i))
    return parts


def _rows_of_a_batch(path: Path, parts: Sequence[pq.ColumnChunkMetaData]) -> int:
    """Return the number of rows to decode at a time, fewer where a value that rows may repeat is large.

    That is an entry of a dictionary, or the beginning of the texts of a page in the encoding by their differences.
    """
    largest = 1
    with path.open("rb") as file:
        for part in parts:
            if "DELTA_BYTE_ARRAY" in part.encodings:
                largest = max(largest, part.total_uncompressed_size)
            elif part.has_dictionary_page and part.dictionary_page_offset:
                file.seek(part.dictionary_page_offset)
                largest = max(largest, _page_size(file.read(16)))
    return min(ROWS_OF_A_BATCH, max(1, BATCH_BYTES // largest))


def _page_size(header: bytes) -> int:
    """Return the uncompressed size in the header of a page: the second of its numbers in Thrift's compact protocol."""
    numbers: list[int] = []
    at = 0
    while len(numbers) < 2:
        value, shift, at = 0, 0, at + 1  # past the byte that begins a field
        while True:
            byte = header[at] if at < len(header) else 0
            value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
            if byte < 0x80:
                break
        numbers.append(value >> 1)  # zigzag of a number that is not negative
    return numbers[1]


def _features(schema: pa.Schema) -> Features:
    """Return the features that `datasets` wrote into a schema's metadata, if it can still read them."""
    try:
        described = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        # `datasets` makes up a name for each class that has none.
        if any(int(each.get("num_classes") or 0) > MOST_CLASSES for each in described.values()):
            return Features()
        return Features.from_dict(described)
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError):
        return Features()


def arrow_columns(schema: pa.Schema, features: Features) -> dict[str, Column]:
    """Describe the columns of an Arrow table; `features` tells classes and images, where known."""
    return {field.name: _arrow_column(field.type, features.get(field.name)) for field in schema}


def _arrow_column(kind: pa.DataType, feature: Any) -> Column:
    if isinstance(feature, ClassLabel) and pa.types.is_integer(kind):
        return Column("class", f"{feature.num_classes} classes", tuple(map(str, feature.names)))
    if isinstance(feature, Image) or (pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}):
        return Column("image", "images")
    if pa.types.is_dictionary(kind):
        return _arrow_column(kind.value_type, None)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return Column("string", "text")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return Column("number", str(kind))
    if pa.types.is_nested(kind) and not pa.types.is_struct(kind):
        classes = feature.feature if isinstance(feature, List) else None
        names = classes.names if isinstance(classes, ClassLabel) else ()
        return Column("list", "lists", tuple(map(str, names)))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return Column("image", "binary data")
    return Column("other", str(kind)[:60])
