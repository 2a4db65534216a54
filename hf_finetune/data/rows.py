"""From a source's columns to canonical rows, checked value by value: text, text_pair or image, label, row.

A source is read to its end before the first bad row is told, so that the message can say how many there are.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, Image, Value
from datasets.table import InMemoryTable

from hf_finetune.data.columns import did_you_mean, listed
from hf_finetune.data.files import Chunk
from hf_finetune.data.image import damage
from hf_finetune.data.sources import Split
from hf_finetune.errors import InputError

FEATURES = {
    "text": Value("string"),
    "text_pair": Value("string"),
    "image": Image(decode=False),
    "label": Value("int64"),
    "row": Value("int64"),
}

# The class of a row that has none, as GLUE's test sets have it. Not -100: the Trainer would leave such rows out of the number
# that a step's loss is divided by.
UNLABELLED = -1

Columns = dict[str, pa.Array]
# Row of a chunk -> what is wrong with it.
Faults = dict[int, str]


class ClassIds:
    """Numbers of class names: of those that are known, or of all that come, in order of appearance.

    Args:
        known: class names, index = number; None: every name is welcome.
        owner: whose classes these are, for messages.
    """

    def __init__(self, known: Sequence[str] | None = None, owner: str = "") -> None:
        self.ids = {name: i for i, name in enumerate(known or ())}
        self.closed, self.owner = known is not None, owner
        self.types: set[type] = set()
        self._seen: dict[tuple[type, Any], int | None] = {}

    def of(self, value: Any, names: Sequence[str]) -> int | None:
        """Number of a label as a source holds it; None when it is missing.

        Args:
            names: the source's own class names, if the value is an index into them.

        Raises:
            ValueError: why it is no class, or not one of the known.
        """
        if isinstance(value, list | dict):
            raise ValueError(
                f"the label is {_shown(value)}: multi-label is not supported yet, expected one class a row"
            )
        # The type is part of the key: 1 and True and 1.0 are equal.
        key = (type(value), value)
        if key not in self._seen:
            self._seen[key] = self._id(value, names)
        return self._seen[key]

    def _id(self, value: Any, names: Sequence[str]) -> int | None:
        name = label_name(value, names)
        if name is None:
            return None
        self.types.add(type(value))
        if name not in self.ids:
            if self.closed:
                known = listed(list(self.ids))
                raise ValueError(
                    f"the label {name!r} is not among the {len(self.ids)} classes of {self.owner} "
                    f"({known}){did_you_mean(name, self.ids)}"
                )
            self.ids[name] = len(self.ids)
        return self.ids[name]


def label_name(value: Any, names: Sequence[str] = ()) -> str | None:
    """Name of a class: a string as it is, whole numbers and booleans by `str`, an index by the name it points to.

    Returns:
        None for a missing label: null, NaN, white space, or -1 as an index.

    Raises:
        ValueError: for fractions, and indices without a name.
    """
    match value:
        case None:
            return None
        case str():
            return None if not value or value.isspace() else value
        case int() if names:
            if value >= len(names) or value < -1:
                raise ValueError(
                    f"the label is {value}, but its {len(names)} classes are numbered 0 to {len(names) - 1}"
                )
            return None if value == -1 else names[value]
        case float():
            if math.isnan(value):
                return None
            if not value.is_integer():
                raise ValueError(f"the label is {value}: regression is not supported yet, expected classes")
            return str(int(value))
        case bool() | int():
            return str(value)
    raise ValueError(f"the label is {_shown(value)}, expected a class (text or a whole number)")


@dataclass(frozen=True)
class Unusable:
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
    unusable: list[Unusable] | None = None,
) -> Iterator[Columns]:
    """Canonical rows, at most `size` at a time, as Arrow arrays.

    Args:
        chosen: the source's columns by canonical name.
        classes: numbers the labels; None only if no `label` is chosen.
        unusable: takes the rows whose text, picture or label is missing or cannot be used, which are then left out.

    Raises:
        InputError: naming file and row of the first such row, without `unusable`.
    """
    first, counts, row = None, Counter[str](), 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def convert(values: dict[str, list]) -> tuple[Columns, dict[int, tuple[str, str]]]:
            columns: Columns = {}
            faults: dict[int, tuple[str, str]] = {}
            for name, column in chosen.items():
                found: Faults = {}
                match name:
                    case "text" | "text_pair":
                        columns[name] = _texts(values[column], found, may_be_empty=name == "text_pair")
                    case "image":
                        columns[name] = _pictures(values[column], found, pool)
                    case "label":
                        assert classes is not None
                        columns[name] = _labels(values[column], found, classes, split.columns[column].names)
                counts[name] += len(found)
                faults |= {i: (name, fault) for i, fault in found.items() if i not in faults}
            return columns, faults

        for chunk in split.chunks(list(chosen.values()), size):
            columns, faults = convert(chunk.columns)
            good = list(range(chunk.size))
            if faults and unusable is not None:
                unusable += [Unusable(row + i, chunk.where(i), *faults[i]) for i in sorted(faults)]
                good = [i for i in good if i not in faults]
                columns, faults = convert({name: [values[i] for i in good] for name, values in chunk.columns.items()})
            if faults and first is None:
                i = min(faults)
                name, fault = faults[i]
                first = name, _complaint(chunk, i, chosen[name], fault)
            if first is None:
                columns["row"] = pa.array([row + i for i in good], pa.int64())
                yield columns
            row += chunk.size
    if first is not None:
        name, complaint = first
        others = counts[name] - 1
        more = f" ({others} other row{'s have' if others > 1 else ' has'} a bad {name} too)" if others else ""
        raise InputError(f"{complaint}{more}; correct or remove {'them' if others else 'it'}")


def _complaint(chunk: Chunk, i: int, column: str, fault: str) -> str:
    where = f"{chunk.where(i)}, column {column!r}"
    if chunk.keys is None or column in (keys := chunk.keys(i)):
        return f"{where}: {fault}"
    hint = did_you_mean(column, keys)
    return f"{where}: {fault}, the row has no such key{hint or ', only ' + ', '.join(map(repr, keys))}"


def _texts(values: list[Any], faults: Faults, *, may_be_empty: bool) -> pa.Array:
    for i, value in enumerate(values):
        if value is None or value != value:  # NaN, which JSON files may hold
            values[i] = value = ""
        if not isinstance(value, str):
            faults[i] = f"expected text, got {_shown(value)}"
        elif not may_be_empty and (not value or value.isspace()):
            faults[i] = "the text is empty"
    try:
        return pa.array([] if faults else values, pa.string())
    except UnicodeEncodeError:
        faults |= {i: "the text holds half a surrogate pair" for i, v in enumerate(values) if not _encodes(v)}
        return pa.array([], pa.string())


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pictures(values: list[Any], faults: Faults, pool: ThreadPoolExecutor) -> pa.Array:
    pictures = [
        {"bytes": v, "path": None} if isinstance(v, bytes) else v or {"bytes": None, "path": None} for v in values
    ]
    present = [i for i, p in enumerate(pictures) if p["bytes"] or p["path"]]
    faults |= {i: "the picture is missing" for i in set(range(len(pictures))) - set(present)}
    for i, reason in zip(present, pool.map(damage, [pictures[i] for i in present]), strict=True):
        if reason is not None:
            faults[i] = f"unreadable picture ({reason})"
    return pa.array(pictures, pa.struct({"bytes": pa.binary(), "path": pa.string()}))


def _labels(values: list[Any], faults: Faults, classes: ClassIds, names: Sequence[str]) -> pa.Array:
    ids = []
    for i, value in enumerate(values):
        try:
            found = classes.of(value, names)
            if found is None:
                faults[i] = "the label is empty" if not isinstance(value, int) else "the label is -1, which means none"
        except ValueError as error:
            found, faults[i] = None, str(error)
        ids.append(found)
    return pa.array(ids, pa.int64())


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:40] + '...'} ({type(value).__name__})"


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
