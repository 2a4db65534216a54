"""Files of predictions: csv, jsonl or parquet written in parts, and predictions.parquet of a run."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
    labels: tuple[str, ...], rows: list[int], probabilities_NC: np.ndarray, digests: list[str] | None = None
) -> pa.Table:
    """Return row, predicted, with `digests` also digest, and p:<name> per class."""
    columns = {
        "row": pa.array(rows, pa.int64()),
        "predicted": pa.array([labels[i] for i in probabilities_NC.argmax(-1)], pa.string()),
        **({} if digests is None else {"digest": pa.array(digests, pa.string())}),
    }
    columns |= {f"p:{labels[i]}": pa.array(p.astype(np.float32)) for i, p in enumerate(probabilities_NC.T)}
    return pa.table(columns)


@contextmanager
def table_writer(output: Path, labels: tuple[str, ...], *, digests: bool = False) -> Iterator[Callable[..., None]]:
    """Yield a function that appends tables of predictions, see `predictions_table`.

    `output` appears when the block succeeds.

    Raises:
        InputError: nothing can be written there.
    """
    check_writable_file(output)
    empty = np.empty((0, len(labels)), np.float32)
    schema = predictions_table(labels, [], empty, [] if digests else None).schema
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
                lines.writerow(record.values())
            else:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")

    try:
        yield append
    finally:
        with named_errors(output):
            file.close()


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
