"""Predictions as files: a table that grows part by part, and the one of a run."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from hf_finetune.errors import InputError
from hf_finetune.utils.files import write_bytes

SUFFIXES = (".csv", ".parquet", ".jsonl")


def check_output(output: Path, data: str) -> None:
    """Refuse a file that predictions cannot be written to, before anything is loaded.

    Raises:
        InputError: when it is a folder, of another format, or the very data that are to be labelled.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise InputError(f"--output {output}: expected a name ending in {', '.join(SUFFIXES)}")
    if output.is_dir():
        raise InputError(f"--output {output}: this is a folder, expected a file")
    if output.exists() and Path(data).exists() and output.samefile(data):
        raise InputError(f"--output {output}: these are the rows to label; name another file")


@contextmanager
def table_writer(output: Path, labels: tuple[str, ...], *, digests: bool = False) -> Iterator[Any]:
    """A function `(rows (N,), probabilities (N, C))` that appends to a temporary file, renamed to `output` at the end.

    With `digests` it takes these (N,) after the others, hexadecimal, for a column of their own.

    It lies in the nearest folder that there is: folders that are missing are made at the end, with the file.

    Raises:
        InputError: nothing can be written there.
    """
    home = next(p for p in output.absolute().parents if p.exists())
    try:
        handle, name = tempfile.mkstemp(dir=home, prefix=f".{output.name}.")
    except OSError as error:
        raise InputError(f"--output {output}: nothing can be written to {home} ({error.strerror})") from None
    os.close(handle)
    temporary, suffix = Path(name), output.suffix.lower()
    keys, shares = ["digest"] if digests else [], [f"p:{label}" for label in labels]
    columns = ["row", "predicted", *keys, *shares]
    texts = [(name, pa.string()) for name in ("predicted", *keys)]
    schema = pa.schema([("row", pa.int64()), *texts, *((name, pa.float32()) for name in shares)])

    def table(rows: list[int], found: np.ndarray, *keys: list[str]) -> pa.Table:
        predicted = [labels[i] for i in found.argmax(-1)]
        numbers = [pa.array(p.astype(np.float32)) for p in found.T]
        return pa.Table.from_arrays(
            [pa.array(rows, pa.int64()), *map(pa.array, (predicted, *keys)), *numbers], schema=schema
        )

    try:
        if suffix == ".parquet":
            with pq.ParquetWriter(temporary, schema) as writer:
                yield lambda *parts: writer.write_table(table(*parts))
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                lines = csv.writer(file)
                if suffix == ".csv":
                    lines.writerow(columns)

                def write(*parts: Any) -> None:
                    for record in table(*parts).to_pylist():
                        if suffix == ".csv":
                            lines.writerow(record.values())
                        else:
                            file.write(json.dumps(record, ensure_ascii=False) + "\n")

                yield write
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        output.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)


def write_predictions(
    path: Path, splits: dict[str, Dataset], probabilities: dict[str, np.ndarray], labels: tuple[str, ...]
) -> None:
    """predictions.parquet of a run: row, split, label, predicted, and p:<name> per class."""
    tables = []
    for split, rows in splits.items():
        found = probabilities[split]
        names = np.asarray(labels, dtype=object)
        columns = {
            "row": pa.array(rows["row"][:], pa.int64()),
            "split": pa.array([split] * len(rows)),
            "label": pa.array(names[np.asarray(rows["label"][:])]),
            "predicted": pa.array(names[found.argmax(-1)]),
            **{f"p:{label}": pa.array(found[:, i].astype(np.float32)) for i, label in enumerate(labels)},
        }
        tables.append(pa.table(columns))
    content = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), content)
    write_bytes(path, content.getvalue())
