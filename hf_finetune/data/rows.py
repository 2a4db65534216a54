"""From a source's columns to canonical rows, checked value by value: text, text_pair or image, label, row.

A source is read to its end before its first bad row is refused, so that the message can say how many there are.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, Image, Value
from datasets.table import InMemoryTable

from hf_finetune.data.duplicates import row_digests
from hf_finetune.data.image_decoding import damage
from hf_finetune.data.labels import ClassIds, label_name, shortened
from hf_finetune.data.readers.table import Chunk
from hf_finetune.data.sources import Split
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import did_you_mean

FEATURES = {
    "text": Value("string"),
    "text_pair": Value("string"),
    "image": Image(decode=False),
    "label": Value("int64"),
    "row": Value("int64"),
}

_SURROGATE = re.compile("[\ud800-\udfff]")
Columns = dict[str, pa.Array]
# Row of a chunk -> what is wrong with it.
Faults = dict[int, str]


@dataclass(frozen=True)
class SplitRows:
    """Canonical rows of one split."""

    table: pa.Table
    digests: list[bytes]
    """See `duplicates.row_digests`."""

    @classmethod
    def of(cls, table: pa.Table) -> SplitRows:
        """The rows of a table."""
        return cls(table, row_digests(table))

    @cached_property
    def labels_N(self) -> np.ndarray:
        """Class of each row."""
        return self.table["label"].to_numpy()

    def __len__(self) -> int:
        return len(self.digests)

    def where(self, mask_N: np.ndarray) -> SplitRows:
        """The rows of a mask, in order."""
        digests = [digest for digest, chosen in zip(self.digests, mask_N, strict=True) if chosen]
        return SplitRows(self.table.filter(pa.array(mask_N)), digests)

    def followed_by(self, other: SplitRows) -> SplitRows:
        """These rows, and behind them the others."""
        return SplitRows(pa.concat_tables([self.table, other.table]), [*self.digests, *other.digests])


@dataclass(frozen=True)
class UnusableRow:
    """A row that cannot be used."""

    row: int
    """Its number, from 0."""
    place: str
    """File and row, as a person finds it."""
    column: str
    """Canonical name of the column that is wrong."""
    reason: str


def read_rows(
    split: Split,
    chosen: dict[str, str],
    classes: ClassIds | None,
    *,
    size: int = 1024,
    unusable: list[UnusableRow] | None = None,
) -> Iterator[Columns]:
    """Canonical rows, at most `size` at a time, as Arrow arrays.

    Args:
        chosen: the source's columns by canonical name.
        classes: numbers the labels; None only if no `label` is chosen.
        unusable: takes the rows whose text, image or label is missing or cannot be used, which are then left out.

    Raises:
        InputError: naming file and row of the first such row, without `unusable`.
    """
    complaint, bad_column, counts, row = "", "", Counter[str](), 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        convert = partial(_convert, split=split, chosen=chosen, classes=classes, pool=pool)
        for chunk in split.chunks(list(chosen.values()), size):
            columns, by_column = convert(chunk.columns)
            # Of a row with several faults the first column's is named.
            faults = {i: (name, by_column[name][i]) for name in reversed(by_column) for i in by_column[name]}
            good = [i for i in range(chunk.size) if i not in faults]
            if faults and unusable is not None:
                unusable += [UnusableRow(row + i, chunk.place(i), *faults[i]) for i in sorted(faults)]
                columns, _ = convert({name: [values[i] for i in good] for name, values in chunk.columns.items()})
            elif faults:
                counts.update({name: len(problems) for name, problems in by_column.items()})
                if not complaint:
                    first = min(faults)
                    bad_column, problem = faults[first]
                    complaint = _complaint(chunk, first, chosen[bad_column], problem)
            if not complaint:
                columns["row"] = pa.array([row + i for i in good], pa.int64())
                yield columns
            row += chunk.size
    if complaint:
        others = counts[bad_column] - 1
        more = f" ({others} other row{'s have' if others > 1 else ' has'} a bad {bad_column} too)" if others else ""
        raise InputError(f"{complaint}{more}; correct or remove {'them' if others else 'it'}")


def _convert(
    values: dict[str, list], *, split: Split, chosen: dict[str, str], classes: ClassIds | None, pool: ThreadPoolExecutor
) -> tuple[Columns, dict[str, Faults]]:
    """Arrow arrays by canonical name, and what is wrong in each."""
    columns: Columns = {}
    faults: dict[str, Faults] = {}
    for name, column in chosen.items():
        if name == "image":
            columns[name], faults[name] = _images(values[column], pool)
        elif name == "label":
            assert classes is not None
            columns[name], faults[name] = _labels(values[column], classes, split.columns[column].names)
        else:
            columns[name], faults[name] = _texts(values[column], may_be_empty=name == "text_pair")
    return columns, faults


def _complaint(chunk: Chunk, i: int, column: str, problem: str) -> str:
    where = f"{chunk.place(i)}, column {column!r}"
    if not chunk.objects or column in (keys := chunk.objects[i]):
        return f"{where}: {problem}"
    return f"{where}: {problem}, the row has no such key" + (
        did_you_mean(column, keys) or ", only " + ", ".join(map(repr, keys))
    )


def _texts(values: list[Any], *, may_be_empty: bool) -> tuple[pa.Array, Faults]:
    faults: Faults = {}
    for i, value in enumerate(values):
        if value is None or value != value:  # NaN, which JSON files may hold
            values[i] = value = ""
        if not isinstance(value, str):
            faults[i] = f"expected text, got {shortened(value)}"
        elif not may_be_empty and (not value or value.isspace()):
            faults[i] = "the text is empty"
    try:
        return pa.array([] if faults else values, pa.string()), faults
    except UnicodeEncodeError:
        halves = [i for i, value in enumerate(values) if _SURROGATE.search(value)]
        return pa.array([], pa.string()), faults | dict.fromkeys(halves, "the text holds half a surrogate pair")


def _images(values: list[Any], pool: ThreadPoolExecutor) -> tuple[pa.Array, Faults]:
    missing = {"bytes": None, "path": None}
    images = [{"bytes": value, "path": None} if isinstance(value, bytes) else value or missing for value in values]
    present = [i for i, image in enumerate(images) if image["bytes"] or image["path"]]
    faults = {i: "the image is missing" for i in set(range(len(images))) - set(present)}
    for i, reason in zip(present, pool.map(damage, [images[i] for i in present]), strict=True):
        if reason is not None:
            faults[i] = f"unreadable image ({reason})"
    return pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})), faults


def _labels(values: list[Any], classes: ClassIds, names: Sequence[str]) -> tuple[pa.Array, Faults]:
    ids: list[int | None] = []
    faults: Faults = {}
    for i, value in enumerate(values):
        try:
            ids.append(classes.id_of(value, names))
            if ids[-1] is None:
                faults[i] = "the label is empty" if not isinstance(value, int) else "the label is -1, which means none"
        except ValueError as error:
            ids.append(None)
            faults[i] = str(error)
    return pa.array(ids, pa.int64()), faults


def has_labels(split: Split, column: str | None) -> bool:
    """Whether any row has a label: not all are null, empty or -1, as in the test splits of GLUE."""
    if column is None or column not in split.columns:
        return False
    names = split.columns[column].names
    for chunk in split.chunks([column]):
        for value in chunk.columns[column]:
            try:
                if label_name(value, names) not in (None, "-1"):
                    return True
            except ValueError:
                return True  # a label, if of a kind that cannot be used
    return False


def to_table(parts: Sequence[Columns]) -> pa.Table:
    """Parts of the same columns in one table, uncopied."""
    names = [name for name in FEATURES if name in parts[0]]
    return pa.table({name: pa.chunked_array([part[name] for part in parts]) for name in names})


def to_dataset(table: pa.Table, fingerprint: str | None = None) -> Dataset:
    """A Dataset in memory, independent of any cache.

    Args:
        fingerprint: what `datasets` knows it by; None: computed by it.
    """
    info = DatasetInfo(features=Features({name: FEATURES[name] for name in table.column_names}))
    return Dataset(InMemoryTable(table), info=info, fingerprint=fingerprint)
