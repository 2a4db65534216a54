"""Data in memory under the name of a source, so that whatever reads files and Hub data sets reads them, too.

A recipe holds the name (`memory:data`), never the rows: it stays a document. The fingerprint of a run, which a resumed
run compares, is that of the rows' content, as for files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset

from hf_finetune.data.config import Kind, Source
from hf_finetune.data.image_decoding import are_image_names
from hf_finetune.data.image_paths import ImageFolder
from hf_finetune.data.readers.dataset_split import DatasetSplit
from hf_finetune.data.readers.memory_table import (
    MemoryTable,
    encoded,
    exported_table,
    first_present,
    frame_table,
    is_arrow_table,
    is_image,
    memory_table,
)
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import row_place, short

PREFIX = "memory:"
ACCEPTED = (
    "a pandas or polars DataFrame, a Dataset or DatasetDict of `datasets`, a mapping of columns or of splits, or a "
    "tuple of inputs and labels"
)
Part = DatasetSplit | MemoryTable
_held: ContextVar[Mapping[str, Mapping[str, Part]]] = ContextVar("rows in memory", default=MappingProxyType({}))


@dataclass(frozen=True)
class MemoryData:
    """Splits in memory, not converted again when they are read."""

    splits: Mapping[str, Part]
    label_columns: tuple[str, ...] = ()
    """Columns of tags or targets, if the labels are a two-dimensional array or a DataFrame of several."""


def is_in_memory(path: str) -> bool:
    """Return whether the path of a source names data in memory."""
    return path.startswith(PREFIX)


def is_held(path: str) -> bool:
    """Return whether a source of this path can be read: it is not in memory, or held by the block around it."""
    return not is_in_memory(path) or path in _held.get()


@contextmanager
def holding(data: Mapping[str, MemoryData]) -> Iterator[None]:
    """Let sources read data in memory in the block, by the path `memory:<name>`."""
    token = _held.set({**_held.get(), **{f"{PREFIX}{name}": each.splits for name, each in data.items()}})
    try:
        yield
    finally:
        _held.reset(token)


def memory_splits(source: Source) -> dict[str, Part]:
    """Return the readers of the data in memory that a source names, by split.

    Raises:
        InputError: there are no such data, as in another Python session.
    """
    if source.path not in (held := _held.get()):
        raise InputError(
            f"{source.path}: these rows were in the memory of a Python session; pass them to hf_finetune.train again, "
            "or save them and name the file"
        )
    images = _image_folder(source.image_root)
    options: dict[str, Any] = {"limits": source.limits, "yields_faults": source.drop_bad_rows, "images": images}
    return {name: replace(part, **options) for name, part in held[source.path].items()}


def _image_folder(root: str | None) -> ImageFolder:
    """Return the folder of images that rows in memory name: any absolute path, unless a folder is named."""
    if root is not None:
        return ImageFolder(Path(root).expanduser().absolute(), absolute=True)
    here = Path.cwd()
    return ImageFolder(here, others=(Path(here.anchor),), absolute=True, remedy="give paths that start there, or at /")


def collect(data: Any, *, kind: Kind | None = None, name: str = "data") -> MemoryData:
    """Return data in memory as splits.

    Args:
        data: see `ACCEPTED`; a mapping of splits has one of these for each name.
        kind: what the rows are, if that is known: strings may be texts, or paths of images.
        name: for messages.

    Raises:
        InputError: it is of another type, or cannot be read.
    """
    if isinstance(data, Mapping) and data and all(map(is_table, data.values())):
        splits = {str(split): _part(f"{name}, split {split}", part, kind) for split, part in data.items()}
        parts = [*data.values()]
    else:
        splits, parts = {"train": _part(name, data, kind)}, [data]
    columns = [tuple(_label_columns(part[1])) for part in parts if _is_pair(part)]
    return MemoryData(splits, columns[0] if columns and len(columns[0]) > 1 else ())


def is_table(data: Any) -> bool:
    """Return whether an object holds rows with names or labels, and is not a single column."""
    is_columns = isinstance(data, Mapping) and not any(isinstance(value, Mapping) for value in data.values())
    return isinstance(data, Dataset | pd.DataFrame) or is_arrow_table(data) or is_columns or _is_pair(data)


def _is_pair(data: Any) -> bool:
    """Whether an object is a pair of inputs and labels."""
    return isinstance(data, tuple) and len(data) == 2 and not any(isinstance(part, str) for part in data)


def _part(name: str, data: Any, kind: Kind | None) -> Part:
    match data:
        case Dataset():
            return DatasetSplit(f"{name} (Dataset)", data)
        case pd.DataFrame():
            return frame_table(f"{name} (DataFrame)", data)
        case tuple() if _is_pair(data):
            return _with_labels(name, data[0], data[1], kind)
        case Mapping():
            return memory_table(name, {str(column): values for column, values in data.items()})
        case _ if is_arrow_table(data):
            return exported_table(f"{name} ({type(data).__name__})", data)
    raise InputError(f"{name}: expected {ACCEPTED}, got {type(data).__name__}")


def _with_labels(name: str, inputs: Any, labels: Any, kind: Kind | None) -> MemoryTable:
    by_column = _label_columns(labels)
    if not isinstance(inputs, pd.DataFrame) and not is_arrow_table(inputs):
        columns = input_columns(inputs, kind=kind, name=name)
    else:
        part = _part(name, inputs, kind)
        assert isinstance(part, MemoryTable)
        name = part.name
        columns = {column: part.table[column] for column in part.table.column_names} | dict(part.objects)
    if both := [column for column in by_column if column in columns]:
        raise InputError(f"{name}: the inputs have a column {both[0]!r} beside the labels; drop one of them")
    return memory_table(name, {**columns, **by_column})


def _label_columns(labels: Any) -> dict[str, Any]:
    """Return labels by column: `label`, or those of an array or DataFrame of several columns."""
    if isinstance(labels, np.ndarray) and labels.ndim == 2:
        labels = pd.DataFrame(labels)
    if not isinstance(labels, pd.DataFrame):
        return {"label": labels}
    columns = {str(name): labels.iloc[:, i] for i, name in enumerate(labels.columns)}
    return columns if len(columns) > 1 else {"label": next(iter(columns.values()), [])}


def input_columns(inputs: Any, *, kind: Kind | None, name: str = "data") -> dict[str, Any]:
    """Return the columns of a list of inputs: texts, pairs of texts, images, or mappings of columns.

    Args:
        inputs: a list, an array, a Series, or any other collection of one column.
        kind: what the rows are, if that is known.

    Raises:
        InputError: a value is none of these.
    """
    if not isinstance(inputs, Iterable):
        raise InputError(f"{name}: expected a text, an image, or a collection of them, got {type(inputs).__name__}")
    if isinstance(inputs, pa.Array | pa.ChunkedArray):
        inputs = inputs.to_pylist()
    values = inputs if isinstance(inputs, pd.Series) else list(inputs)
    if isinstance(first_present(values), np.ndarray):
        values = [
            each.tolist() if isinstance(each, np.ndarray) and each.dtype.kind in "OUT" else each for each in values
        ]
    first = first_present(values)
    if isinstance(first, Mapping):
        rows: list[Mapping[str, Any]] = list(values)
        return {column: [row.get(column) for row in rows] for column in dict.fromkeys(c for row in rows for c in row)}
    if kind == "image" or is_image(first) or (kind is None and are_image_names(values)):
        return {"image": [encoded(value, f"{name}, {row_place(i)}") for i, value in enumerate(values)]}
    if isinstance(first, list) and any(len(row) > 2 for row in values if isinstance(row, Sequence)):
        return {"text": values}  # lists of words; pairs of texts are tuples
    if isinstance(first, Sequence) and not isinstance(first, str):
        return _text_columns(values, len(first), name)
    if kind == "text" and not isinstance(first, str):
        raise InputError(f"{name}: expected texts, or pairs of texts, got {short(first)}")
    return {"text": values}


def _text_columns(rows: Sequence[Any], width: int, name: str) -> dict[str, Any]:
    """Return the columns of rows of one text each, or of a pair of texts."""
    for i, row in enumerate(rows):
        if not isinstance(row, Sequence) or isinstance(row, str) or len(row) != width or not 1 <= width <= 2:
            raise InputError(f"{name}, {row_place(i)}: expected a pair of texts, got {short(row)}")
    return {column: [row[place] for row in rows] for place, column in enumerate(("text", "text_pair")[:width])}
