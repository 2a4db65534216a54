"""Files of predictions: csv, jsonl or parquet written in parts, and predictions.parquet of a run."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from hf_finetune.errors import InputError
from hf_finetune.utils.files import atomic_file, check_writable_file, named_errors

SUFFIXES = (".csv", ".parquet", ".jsonl")


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


def predictions_table(
    labels: tuple[str, ...],
    rows: list[int],
    probabilities_NC: np.ndarray,
    digests: list[str] | None = None,
    carried: Mapping[str, pa.Array] | None = None,
) -> pa.Table:
    """Return row, the `carried` columns of the input, predicted, with `digests` also digest, and p:<name> per class."""
    columns = {
        "row": pa.array(rows, pa.int64()),
        **(carried or {}),
        "predicted": pa.array([labels[i] for i in probabilities_NC.argmax(-1)], pa.string()),
        **({} if digests is None else {"digest": pa.array(digests, pa.string())}),
    }
    columns |= {f"p:{labels[i]}": pa.array(p.astype(np.float32)) for i, p in enumerate(probabilities_NC.T)}
    return pa.table(columns)


@contextmanager
def table_writer(
    output: Path, labels: tuple[str, ...], *, digests: bool = False, carried: Mapping[str, pa.DataType] | None = None
) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that appends tables of predictions, see `predictions_table`.

    `output` appears when the block succeeds.

    Args:
        carried: types of the columns from the input.

    Raises:
        InputError: nothing can be written there.
    """
    check_writable_file(output)
    empty = np.empty((0, len(labels)), np.float32)
    none = {name: pa.array([], kind) for name, kind in (carried or {}).items()}
    schema = predictions_table(labels, [], empty, [] if digests else None, none).schema
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
        writer = pq.ParquetWriter(path, schema)
        try:
            yield writer.write_table
        finally:
            with named_errors(output):
                writer.close()
        return
    file = path.open("w", encoding="utf-8", newline="")
    lines = csv.writer(file)
    if suffix == ".csv":
        lines.writerow(schema.names)

    def append(table: pa.Table) -> None:
        for record in table.to_pylist():
            if suffix == ".csv":
                lines.writerow(_json(v) if isinstance(v, list | dict) else v for v in record.values())
            else:
                file.write(f"{_json(record)}\n")

    try:
        yield append
    finally:
        with named_errors(output):
            file.close()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def arrow_columns(values: Mapping[str, list[Any]], types: dict[str, pa.DataType]) -> dict[str, pa.Array]:
    """Return columns as Arrow arrays: of the types that they have in the first part, or as text.

    Args:
        types: of each column so far; filled by the first part.

    Raises:
        InputError: a value of a later part has another type.
    """
    columns = {}
    for name, cells in values.items():
        try:
            column = pa.array(cells, types.get(name))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            if not pa.types.is_string(types.setdefault(name, pa.string())):
                raise InputError(
                    f"column {name!r}: {types[name]} in the first rows, and then another type ({error}); leave the "
                    "columns out by --no-columns"
                ) from None
            column = pa.array([cell if cell is None or isinstance(cell, str) else _json(cell) for cell in cells])
        types.setdefault(name, pa.string() if pa.types.is_null(column.type) else column.type)
        columns[name] = column.cast(types[name])
    return columns


def write_predictions(
    path: Path, splits: dict[str, Dataset], probabilities: dict[str, np.ndarray], labels: tuple[str, ...]
) -> None:
    """Write predictions.parquet: row, split, label, predicted, and p:<name> per class."""
    tables = []
    for split, rows in splits.items():
        probabilities_NC = probabilities[split]
        names = np.asarray(labels, dtype=object)
        columns = {
            "row": pa.array(rows["row"][:], pa.int64()),
            "split": pa.array([split] * len(rows)),
            "label": pa.array(names[np.asarray(rows["label"][:])]),
            "predicted": pa.array(names[probabilities_NC.argmax(-1)]),
            **{f"p:{label}": pa.array(probabilities_NC[:, i].astype(np.float32)) for i, label in enumerate(labels)},
        }
        tables.append(pa.table(columns))
    with atomic_file(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary)
