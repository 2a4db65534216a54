"""Reader of parquet files, and the content of Arrow columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image

from hf_finetune.data.readers.table import Chunk, Column, DataFile
from hf_finetune.errors import InputError


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
        if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
            raise InputError(f"{self.path}: two columns are called {twice[0]!r}; rename one of them")
        return arrow_columns(schema, _features(schema))

    def chunks(self, columns: Sequence[str], size: int) -> Iterator[Chunk]:
        """Yield rows in order, at most `size` at a time.

        Raises:
            InputError: the file is damaged, no parquet file, or has no rows.
        """
        first = 0
        with self._open() as file:
            for batch in file.iter_batches(batch_size=size, columns=list(columns)):
                values = {name: batch.column(name).to_pylist() for name in columns}
                yield Chunk(values, batch.num_rows, self.name, first)
                first += batch.num_rows
        if first == 0:
            raise InputError(f"{self.path}: the file holds no rows")

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        try:
            with pq.ParquetFile(self.path) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{self.path}: not a readable parquet file ({reason[:150]}); write it again") from None


def _features(schema: pa.Schema) -> Features:
    """Return the features that `datasets` wrote into a schema's metadata, if it can still read them."""
    try:
        return Features.from_dict(json.loads(schema.metadata[b"huggingface"])["info"]["features"])
    except (TypeError, KeyError, ValueError):
        return Features()


def arrow_columns(schema: pa.Schema, features: Features) -> dict[str, Column]:
    """Describe the columns of an Arrow table; `features` tells classes and images, where known."""
    return {field.name: _arrow_column(field.type, features.get(field.name)) for field in schema}


def _arrow_column(kind: pa.DataType, feature: Any) -> Column:
    if isinstance(feature, ClassLabel) and pa.types.is_integer(kind):
        return Column("class", f"{feature.num_classes} classes", tuple(feature.names))
    if isinstance(feature, Image) or (pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}):
        return Column("image", "images")
    if pa.types.is_dictionary(kind):
        return _arrow_column(kind.value_type, None)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return Column("string", "text")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return Column("number", str(kind))
    if pa.types.is_nested(kind) and not pa.types.is_struct(kind):
        return Column("list", "lists")
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return Column("image", "binary data")
    return Column("other", str(kind)[:60])
