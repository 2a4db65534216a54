"""Read a source as canonical rows: text, text_pair or image, label, row.

A source is read to its end before its first bad row is refused, so that the message can count the bad rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, Image, List, Value
from datasets.arrow_writer import OptimizedTypedSequence
from datasets.fingerprint import generate_random_fingerprint
from datasets.table import InMemoryTable

from hf_finetune.data.cells import Columns, convert
from hf_finetune.data.config import FEATURE
from hf_finetune.data.duplicates import row_digests
from hf_finetune.data.labels import UNLABELED, has_words, label_array, label_name
from hf_finetune.data.layout import Split
from hf_finetune.data.readers.table import DROP, Chunk, Column, Fault
from hf_finetune.data.targets.base import LabelReader
from hf_finetune.errors import InputError
from hf_finetune.utils.core_sharing import available_cores
from hf_finetune.utils.messages import counted, cut, did_you_mean, listed, plural, row_place, short
from hf_finetune.utils.sequences import SequenceReader

FEATURES = {
    "text": Value("string"),
    "text_pair": Value("string"),
    "bounds": List(Value("int64")),
    "image": Image(decode=False),
    "row": Value("int64"),
}
NAMES = ("text", "text_pair", "bounds", "image", "label", "row")
"""The canonical columns, in order, but for features, which are last. `bounds`: of the words, see `words.Sentence`."""

# Rows that cannot be used: so many get a hint, and are counted before the data are refused.
EXPLAINED, MOST_COUNTED = 20, 100_000
# Keys of a row among which a similar one is looked for.
MOST_KEYS = 1000


@dataclass(frozen=True)
class SplitRows:
    """Canonical rows of one split."""

    table: pa.Table
    digests: list[bytes]
    """See `duplicates.row_digests`."""

    @classmethod
    def from_table(cls, table: pa.Table) -> SplitRows:
        """Wrap a table of canonical rows."""
        return cls(table, row_digests(table))

    @cached_property
    def labels(self) -> Any:
        """Label of each row, see `labels.label_array`."""
        return label_array(self.table["label"], of_words=has_words(self.table.column_names))

    def __len__(self) -> int:
        return len(self.digests)

    def where(self, mask_N: np.ndarray) -> SplitRows:
        """Select the rows of a mask, in order."""
        return SplitRows(self.table.filter(pa.array(mask_N)), list(compress(self.digests, mask_N)))

    def followed_by(self, other: SplitRows) -> SplitRows:
        """Append other rows."""
        return SplitRows(pa.concat_tables([self.table, other.table]), [*self.digests, *other.digests])


@dataclass(frozen=True)
class UnusableRow:
    """A row with a missing or invalid value."""

    row: int
    """Row number, from 0."""
    place: str
    """File and row, for messages."""
    column: str
    """Canonical name of the invalid column; `row`: the row could not be read."""
    fault: Fault

    @property
    def reason(self) -> str:
        """The fault, for messages."""
        return self.fault.reason


class Carried:
    """The columns of a source beside those that a classifier reads, which its predictions carry along."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self._split: Split | None = None
        self._values: dict[str, list[Any]] = {}

    def choose(self, split: Split, chosen: Mapping[str, str]) -> None:
        """Choose the columns that all files have, except images and nested values."""
        self._split = split
        known = [split.columns, *(reader.columns() for reader in split.readers[1:])]
        kinds = ("string", "number", "class", "list")
        self.names = tuple(
            name
            for name, column in split.columns.items()
            if column.kind in kinds and name not in chosen.values() and all(name in each for each in known)
        )

    def add(self, chunk: Chunk, usable: Sequence[int]) -> None:
        """Collect the values of the usable rows of a chunk: the file and its class, where a row is a file."""
        assert self._split is not None
        if chunk.files:
            self._values.setdefault("file", []).extend(chunk.files[i] for i in usable)
        for name, values in chunk.columns.items():
            column = self._split.columns[name]
            if chunk.files and name not in self.names:
                continue
            self._values.setdefault(name, []).extend(_carried_value(values[i], column) for i in usable)

    def take(self) -> dict[str, list[Any]]:
        """Return what was collected since the last call, in the order of the source's columns."""
        values, self._values = self._values, {}
        order = ["file", *(() if self._split is None else self._split.columns)]
        return {name: values[name] for name in order if name in values}


def _carried_value(value: Any, column: Column) -> Any:
    """Return a cell as predictions hold it: a class by its name, an image by its path."""
    if isinstance(value, Mapping) and {"bytes", "path"} >= value.keys():
        return value.get("path")
    if column.names and isinstance(value, int) and 0 <= value < len(column.names):
        return column.names[value]
    return None if isinstance(value, bytes) else value


def read_rows(
    split: Split,
    chosen: dict[str, str],
    labels: LabelReader | None,
    *,
    size: int = 1024,
    unusable: list[UnusableRow] | None = None,
    without_gold: list[int] | None = None,
    carried: Carried | None = None,
    words: bool = False,
    sequences: SequenceReader | None = None,
) -> Iterator[Columns]:
    """Yield canonical rows as Arrow arrays, at most `size` at a time.

    Args:
        chosen: the source's columns by canonical name.
        labels: reads labels; None only if `chosen` has no `label`.
        unusable: collects rows whose text, image or label is missing or cannot be used, which are then skipped.
        without_gold: collects the numbers of rows without a gold label, which are then skipped: -1 where labels are the
            numbers of named classes, as in SNLI.
        carried: collects further columns of the rows, before each part is yielded.
        words: read sentences, with the bounds of their words, see `Targets.reads_words`.
        sequences: reads the texts as sequences.

    Raises:
        InputError: without `unusable`, for the first such row, once all rows or `MOST_COUNTED` such rows were read;
            with it, if most of very many rows cannot be used.
    """
    first_unusable, counts, row = None, Counter[str](), 0
    with ThreadPoolExecutor(available_cores()) as pool:
        converted = partial(
            convert, split=split, chosen=chosen, labels=labels, pool=pool, words=words, sequences=sequences
        )
        others = () if carried is None else carried.names
        for chunk in split.chunks([*chosen.values(), *others], size):
            columns, faults_by_column = converted(chunk.columns, chunk.images)
            # The last assignment wins: a row with several faults is reported by its first column.
            faults = {i: (name, faults[i]) for name, faults in reversed(faults_by_column.items()) for i in faults}
            faults |= {i: ("row", fault) for i, fault in chunk.faults.items()}
            skipped = set() if without_gold is None else _without_gold_label(chunk, split.columns, chosen["label"])
            # Hints on all of them would take far longer than the rows.
            hints = EXPLAINED - counts.total()
            bad = [
                UnusableRow(
                    row + i, chunk.place(i), name, _explained(fault, chunk, i, chosen.get(name)) if n < hints else fault
                )
                for n, (i, (name, fault)) in enumerate(sorted((i, f) for i, f in faults.items() if i not in skipped))
            ]
            usable = [i for i in range(chunk.size) if i not in faults and i not in skipped]
            counts.update(each.column for each in bad)
            if bad and unusable is None:
                first_unusable = first_unusable or bad[0]
                if counts.total() >= MOST_COUNTED:
                    break
            elif bad or skipped:
                if unusable is not None:
                    unusable += bad
                    _refuse_most(unusable, row + chunk.size)
                if without_gold is not None:
                    without_gold += [row + i for i in sorted(skipped)]
                left = {name: [values[i] for i in usable] for name, values in chunk.columns.items()}
                columns, _ = converted(left, chunk.images)
            if first_unusable is None:
                if carried is not None:
                    carried.add(chunk, usable)
                columns["row"] = pa.array([row + i for i in usable], pa.int64())
                yield columns
            row += chunk.size
    if first_unusable is not None:
        raise _refusal(first_unusable, chosen, others=counts[first_unusable.column] - 1)


def _without_gold_label(chunk: Chunk, columns: dict[str, Column], label: str) -> set[int]:
    """Return the rows of a chunk whose class is -1, where labels are the numbers of named classes."""
    values = chunk.columns[label] if columns[label].names else []
    return {i for i, value in enumerate(values) if isinstance(value, int) and value == UNLABELED}


def _refuse_most(unusable: Sequence[UnusableRow], rows: int) -> None:
    """Refuse data of which most rows would be dropped, once they are many."""
    if len(unusable) >= MOST_COUNTED and 2 * len(unusable) > rows:
        first = unusable[0]
        raise InputError(
            f"{first.place}, column {first.column!r}: {first.reason}; {len(unusable):,} of the first {rows:,} rows "
            "cannot be used; name another column, or correct them"
        )


def _refusal(first: UnusableRow, chosen: dict[str, str], *, others: int) -> InputError:
    or_more = " or more" if others >= MOST_COUNTED - 1 else ""
    rows = counted(others, f"other row{or_more} has", f"other rows{or_more} have")
    more = f" ({rows} a bad {first.column} too)" if others else ""
    remedy = f"correct or remove {'them' if others else 'it'}, or {DROP}"
    return InputError(f"{first.place}, column {chosen[first.column]!r}: {first.reason}{more}; {remedy}")


def _explained(fault: Fault, chunk: Chunk, i: int, column: str | None) -> Fault:
    """Add the path of an unreadable image; or that a JSON object lacks the key, which reads like an empty value."""
    if fault.kind == "unreadable image" and column is not None and not chunk.files:
        value = chunk.columns[column][i]
        path = value.get("path") if isinstance(value, Mapping) else value
        return Fault(fault.kind, f"{cut(path, 80)!r}: {fault.reason}") if isinstance(path, str) else fault
    if column is None or not chunk.objects or column in (keys := chunk.objects[i]):
        return fault
    hint = did_you_mean(column, keys) if len(keys) <= MOST_KEYS else ""
    hint = hint or (f", only {listed([short(key) for key in keys])}" if keys else ", nor any other")
    return Fault(fault.kind, f"{fault.reason}, the row has no such key{hint}")


def count_kinds(rows: Sequence[UnusableRow]) -> dict[str, int]:
    """Count unusable rows by the kind of their fault, the most frequent first."""
    return dict(Counter(row.fault.kind for row in rows).most_common())


def describe_dropped(dropped: Sequence[UnusableRow], rows: int) -> str:
    """Describe the rows that were dropped.

    Args:
        rows: the number of the others.
    """
    kinds = ", ".join(f"{count} {kind}" for kind, count in count_kinds(dropped).items())
    total, first = len(dropped) + rows, dropped[0]
    return f"{len(dropped)} of {total} rows dropped: {kinds} (the first: {row_place(first.row)}, {first.reason})"


def describe_without_gold(without_gold: list[int], rows: int) -> str:
    """Describe the rows that were left out as they have no gold label.

    Args:
        rows: the number of the others.
    """
    count = len(without_gold)
    return (
        f"{count} of {count + rows} rows {plural(count, 'has', 'have')} the label -1, which means no gold label, and "
        f"{plural(count, 'is', 'are')} left out (the first: {row_place(without_gold[0])})"
    )


def has_labels(split: Split, column: str | None) -> bool:
    """Return whether any label is not null, empty or -1 (as all are in the test splits of GLUE)."""
    if column is None or column not in split.columns:
        return False
    names = split.columns[column].names
    for chunk in split.chunks([column]):
        for value in chunk.columns[column]:
            try:
                cells, known = (value.values(), ()) if isinstance(value, Mapping) else ([value], names)
                if any(label_name(cell, known) not in (None, "-1") for cell in cells):
                    return True
            except ValueError:
                return True  # a label, though an invalid one
    return False


def to_table(parts: Sequence[Columns]) -> pa.Table:
    """Concatenate parts with the same columns, without copying."""
    names = [name for name in NAMES if name in parts[0]] + [name for name in parts[0] if name.startswith(FEATURE)]
    return pa.table({name: pa.chunked_array([part[name] for part in parts]) for name in names})


def with_label(table: pa.Table, labels: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Replace the column `label`."""
    return table.set_column(table.column_names.index("label"), "label", labels)


def in_memory(columns: Mapping[str, list[Any]]) -> Dataset:
    """Return columns as `Dataset.from_dict` does, with its small integers for token ids, but without hashing them: that
    takes 1.5 of the 11.5 ms of a call with a single text."""
    typed = {name: pa.array(OptimizedTypedSequence(values, col=name)) for name, values in columns.items()}
    return to_dataset(pa.table(typed))


def to_dataset(table: pa.Table, fingerprint: str | None = None) -> Dataset:
    """Wrap a table as a Dataset in memory.

    Args:
        fingerprint: of the Dataset; None: a random one. To compute one, `datasets` would copy all rows twice.
    """
    known = {**Features.from_arrow_schema(table.schema.remove_metadata()), **FEATURES}
    info = DatasetInfo(features=Features({name: known[name] for name in table.column_names}))
    return Dataset(InMemoryTable(table), info=info, fingerprint=fingerprint or generate_random_fingerprint())
