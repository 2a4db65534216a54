"""Files of predictions: csv, jsonl, parquet or CoNLL written in parts, and predictions.parquet of a run."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_finetune.errors import InputError
from hf_finetune.utils.files import atomic_file, check_writable_file, named_errors

CONLL = ".conll"
SUFFIXES = (".csv", ".parquet", ".jsonl", CONLL)


def check_output(output: Path, data: str, *, overwrite: bool = True) -> None:
    """Refuse a file that predictions cannot be written to.

    Args:
        overwrite: replace a file that exists.

    Raises:
        InputError: it is a folder, has another format, cannot be written, exists, or is the data to be labeled.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise InputError(f"--output {output}: expected a name ending in {', '.join(SUFFIXES)}")
    check_writable_file(output)
    if output.exists() and Path(data).exists() and output.samefile(data):
        raise InputError(f"--output {output}: these are the rows to label; name another file")
    if output.exists() and not overwrite:
        raise InputError(f"--output {output}: exists already; name another file, or replace it by --overwrite")


@contextmanager
def table_writer(output: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that appends tables of predictions.

    `output` appears when the block succeeds. Tables may have other types in the columns of the input.

    Raises:
        InputError: nothing can be written there.
    """
    check_writable_file(output)
    with atomic_file(output) as temporary, _appender(temporary, schema, output) as append:

        def write(table: pa.Table) -> None:
            with named_errors(output):
                append(table)

        yield write


@contextmanager
def _appender(path: Path, schema: pa.Schema, output: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that appends a table to the file `path`, which becomes `output`."""
    suffix = output.suffix.lower()
    if suffix == ".parquet":
        parquet = _WideningParquet(path, schema)
        try:
            yield parquet.append
        finally:
            with named_errors(output):
                parquet.close()
        return
    file = path.open("w", encoding="utf-8", newline="")
    lines = csv.writer(file)
    if suffix == ".csv":
        lines.writerow(schema.names)

    def append(table: pa.Table) -> None:
        for record in table.to_pylist():
            if suffix == CONLL:
                file.write(_sentence(record["words"], record["predicted"]))
            elif suffix == ".csv":
                lines.writerow(_json(v) if isinstance(v, list | dict) else v for v in record.values())
            else:
                file.write(f"{_json(record)}\n")

    try:
        yield append
    finally:
        with named_errors(output):
            file.close()


def _sentence(words: Sequence[str], tags: Sequence[str]) -> str:
    """Return a line for each word with its tag, and a blank one."""
    return "".join(f"{' '.join(word.split())}\t{tag}\n" for word, tag in zip(words, tags, strict=True)) + "\n"


class _WideningParquet:
    """A parquet file that is written again with wider types when a later table needs them: numbers, then text."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        self._writer: pq.ParquetWriter | None = None

    def append(self, table: pa.Table) -> None:
        """Write a table with the same columns."""
        schema = _common_schema(self._schema, table.schema)
        if self._writer is not None and schema != self._schema:
            self._widen(schema)
        self._schema = schema
        self._writer = self._writer or pq.ParquetWriter(self._path, schema)
        self._writer.write_table(_cast(table, schema))

    def close(self) -> None:
        """Finish the file, which without a table is empty."""
        writer = self._writer or pq.ParquetWriter(self._path, self._schema)
        writer.close()

    def _widen(self, schema: pa.Schema) -> None:
        assert self._writer is not None
        self._writer.close()
        narrow = self._path.with_name(f"{self._path.name}.narrow")
        self._path.rename(narrow)
        try:
            self._writer = pq.ParquetWriter(self._path, schema)
            with pq.ParquetFile(narrow) as before:
                for batch in before.iter_batches():
                    self._writer.write_table(_cast(pa.Table.from_batches([batch]), schema))
        finally:
            narrow.unlink()


def _common_schema(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    """Return a schema that holds the values of both; text for values of unlike types."""
    fields = []
    for name in one.names:
        pair = [pa.schema([schema.field(name)]) for schema in (one, other)]
        try:
            fields.append(pa.unify_schemas(pair, promote_options="permissive").field(0))
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            fields.append(pa.field(name, pa.string()))
    return pa.schema(fields)


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        _as_text(column.to_pylist()) if field.type == pa.string() != column.type else column.cast(field.type)
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.table(columns, schema=schema)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def arrow_columns(values: Mapping[str, list[Any]]) -> dict[str, pa.Array]:
    """Return columns as Arrow arrays, those with values of unlike types as text."""
    columns = {}
    for name, cells in values.items():
        try:
            columns[name] = pa.array(cells)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[name] = _as_text(cells)
    return columns


def _as_text(cells: list[Any]) -> pa.Array:
    return pa.array([cell if cell is None or isinstance(cell, str) else _json(cell) for cell in cells], pa.string())


def write_predictions(path: Path, tables: Sequence[pa.Table]) -> None:
    """Write predictions.parquet from the predictions of each split."""
    with atomic_file(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary)
