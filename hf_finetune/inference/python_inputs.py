"""The inputs of a call in Python as canonical rows: a text or image, a list or generator of them, a table, or files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from hf_finetune.data.config import DEFAULT_LIMITS, DataLimits, Kind, SourceSplit
from hf_finetune.data.image_decoding import are_image_names
from hf_finetune.data.memory import collect, holding, input_columns, is_table
from hf_finetune.data.readers.memory_table import is_image
from hf_finetune.inference.parts import PATH, every_row_has_a_label, read_inputs, read_parts
from hf_finetune.tasks.trained_pipeline import Trained


def is_single(classifier: Trained, inputs: Any) -> bool:
    """Return whether the inputs are a single text, pair of texts, or image."""
    is_pair = classifier.pairs and isinstance(inputs, tuple) and [*map(type, inputs)] == [str, str]
    is_source = isinstance(inputs, Path) and (classifier.kind == "text" or _holds_rows(inputs))
    return is_pair or isinstance(inputs, str) or (is_image(inputs) and not is_source)


def rows_of(
    classifier: Trained, inputs: Any, columns: Mapping[str, str | None], limits: DataLimits
) -> Iterator[Dataset]:
    """Yield canonical rows of any inputs, a part at a time.

    Args:
        columns: columns of a table by canonical name. None: those that the classifier was trained on, or the obvious
            ones.

    Raises:
        InputError: an input is of another type, empty or damaged, or a column is missing.
    """
    if is_single(classifier, inputs):
        inputs = [inputs]
    elif isinstance(inputs, Path) or is_table(inputs) or _holds_splits(inputs):
        with source_of(inputs, columns, limits, kind=classifier.kind) as source, every_row_has_a_label():
            yield from read_parts(classifier, source, labeled=False, progress="predict")
        return
    if not isinstance(inputs, Iterable):
        input_columns(inputs, kind=classifier.kind, name="inputs")  # refuses it
    rows = inputs.to_pylist() if isinstance(inputs, pa.Array | pa.ChunkedArray) else inputs
    yield from read_inputs(classifier, rows, limits)


@contextmanager
def source_of(
    data: Any,
    columns: Mapping[str, str | Sequence[str] | None],
    limits: DataLimits,
    *,
    kind: Kind,
    split: str | None = None,
) -> Iterator[SourceSplit]:
    """Yield the source of a table, a path or a Hub id."""
    requested: dict[str, Any] = {
        name: column if isinstance(column, str) else tuple(column)
        for name, column in columns.items()
        if column is not None
    }
    if isinstance(data, str | Path):
        yield replace(SourceSplit(os.fspath(data), split=split, limits=limits), **requested)
        return
    held = collect(data, kind=kind, name="data")
    if held.label_columns:
        requested = {"label": held.label_columns, **requested}
    with holding({"rows": held}):
        yield replace(SourceSplit(PATH, split=split, limits=limits), **requested)


@contextmanager
def source_or_own(
    data: Any, columns: Mapping[str, str | Sequence[str] | None], *, kind: Kind
) -> Iterator[SourceSplit | None]:
    """Yield the source of labeled rows, see `source_of`; None, the data of the run, where there are none."""
    if data is None:
        yield None
        return
    with source_of(data, columns, DEFAULT_LIMITS, kind=kind) as source:
        yield source


def noting_texts(inputs: Any, of_text: list[bool]) -> Any:
    """Return inputs in memory, and note whether each is a text, of a generator as it is read. Tables are not noted."""
    if isinstance(inputs, str):
        of_text.append(True)
    elif isinstance(inputs, Sequence):
        of_text.extend(isinstance(each, str) for each in inputs)
    elif isinstance(inputs, Iterator):
        return _noted(inputs, of_text)
    return inputs


def _noted(inputs: Iterator[Any], of_text: list[bool]) -> Iterator[Any]:
    for each in inputs:
        of_text.append(isinstance(each, str))
        yield each


def _holds_rows(path: Path) -> bool:
    """Return whether a path leads to a folder or table of images, and not to a single image."""
    return path.is_dir() or (path.suffix != "" and not are_image_names([path.name]))


def _holds_splits(inputs: Any) -> bool:
    return isinstance(inputs, dict) and bool(inputs) and all(map(is_table, inputs.values()))
