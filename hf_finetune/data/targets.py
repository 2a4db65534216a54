"""How each task reads, checks and splits the label column: one class, a set of tags, or a number.

The column `label` of canonical rows then holds a class id; a 0 or 1 for each tag; or the numbers.

Legend: N rows, C classes or tags.
"""

from __future__ import annotations

import ast
import csv
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

from hf_finetune.data import splits
from hf_finetune.data.config import TaskName
from hf_finetune.data.labels import (
    SURROGATE,
    ClassIds,
    check_classes,
    label_name,
    name_values,
    order_classes,
    plain_names,
    shortened,
    warn_of_similar,
)
from hf_finetune.data.sources import Split
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import Notes, did_you_mean, listed

ROWS_TO_INFER = 10_000
"""Labels that are read to infer the task."""
MOST_STRATA, ROWS_PER_STRATUM = 10, 10
"""Numbers are held out by ranges of equal frequency: this many, or fewer on a few rows."""


class LabelReader(Protocol):
    """Reads the labels of one split."""

    cell: ClassVar[pa.DataType]
    """Type of a label as it is read."""
    fault: ClassVar[str]
    """Kind of fault of a cell that is no such label."""

    def read(self, value: Any, names: Sequence[str]) -> Any | None:
        """Return a label from a cell, or None if it is missing.

        Args:
            names: the source's own class names, if the cell has indices into them.

        Raises:
            ValueError: the cell is no label, or not a known one.
        """


@dataclass(frozen=True)
class LabelColumn:
    """The label column of the training rows."""

    name: str
    place: str
    """File of the rows, for messages."""
    declared: tuple[str, ...] = ()
    """Class names that the source declares."""
    label_names: tuple[str, ...] = ()
    """Names of labels that are numbers, see `Data.label_names`."""
    most_classes: int = 1_000
    """See `DataLimits.classes`."""


@dataclass(frozen=True)
class Settled:
    """What the training rows settle: the classes, and the column `label` in their order."""

    labels: tuple[str, ...]
    column: pa.Array | pa.ChunkedArray
    label_values: dict[str, str]
    """See `loading.Splits`."""


class Targets(ABC):
    """How the labels of a task are read and split."""

    task: ClassVar[TaskName]
    column_kinds: ClassVar[tuple[str, ...]]
    """Kinds of column that hold such labels, see `readers.table.Column`."""
    expected: ClassVar[str]
    """What such a column holds, for messages."""
    stratum: ClassVar[str]
    """What has its share in every split."""

    @abstractmethod
    def reader(
        self, labels: Sequence[str] | None = None, owner: str = "", values: Mapping[str, str] | None = None
    ) -> LabelReader:
        """Return a reader of labels.

        Args:
            labels: the known classes, in the order of their ids. None: every label is accepted.
            owner: what has these classes, for messages.
            values: the names of labels that the source numbers.
        """

    @abstractmethod
    def settle(self, reader: Any, cells: pa.ChunkedArray, column: LabelColumn, notes: Notes) -> Settled:
        """Order the classes of the training rows, and check them.

        Args:
            reader: what read the labels.
            cells: the labels as they were read.

        Raises:
            InputError: these labels cannot be learned.
        """

    def encode(self, cells: pa.ChunkedArray, labels: Sequence[str]) -> pa.Array | pa.ChunkedArray:
        """Return the column `label` of rows that were read with these labels."""
        return cells

    def hold_out(
        self, labels: np.ndarray, first_N: np.ndarray, *, fraction: float, seed: tuple[int, int]
    ) -> np.ndarray:
        """Return the mask (N,) of the rows to hold out, see `splits.hold_out`."""
        return splits.hold_out(self.strata(labels), first_N, fraction=fraction, seed=seed)

    def subsample(self, labels: np.ndarray, *, count: int, seed: tuple[int, int]) -> np.ndarray:
        """Return the mask (N,) of `count` rows, see `splits.subsample`."""
        return splits.subsample(self.strata(labels), count=count, seed=seed)

    @abstractmethod
    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return groups (N,) whose shares a split should have, too."""

    def single_rows(self, labels: np.ndarray, names: Sequence[str]) -> list[str]:
        """Return the classes of a single row."""
        return []


class SingleLabel(Targets):
    """One class a row."""

    task = "single-label"
    column_kinds = ("string", "number", "class")
    expected = "classes (text or whole numbers)"
    stratum = "class"

    def reader(
        self, labels: Sequence[str] | None = None, owner: str = "", values: Mapping[str, str] | None = None
    ) -> ClassIds:
        """Return a reader of class ids."""
        return ClassIds(labels, owner, values)

    def settle(self, reader: ClassIds, cells: pa.ChunkedArray, column: LabelColumn, notes: Notes) -> Settled:
        """Order the classes: as declared, numerically or alphabetically."""
        names = plain_names(reader.ids)
        values: dict[str, str] = {}
        if column.label_names:
            values = name_values(set(names.values()), column.label_names, column.place, column.name)
            names = {name: values[plain] for name, plain in names.items()}
            notes.add(f"labels named: {listed([f'{value} = {name}' for value, name in values.items()], most=12)}")
        labels = order_classes(names.values(), column.label_names or column.declared)
        _note_classes(reader, column.declared, notes)
        check_classes(labels, len(cells), column.place, column.name, most=column.most_classes)
        # From the order of appearance to the order of the classes.
        ids = {name: i for i, name in enumerate(labels)}
        column_N = np.array([ids[names[name]] for name in reader.ids])[cells.to_numpy()]
        return Settled(labels, pa.array(column_N, pa.int64()), values)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return the classes."""
        return labels

    def single_rows(self, labels: np.ndarray, names: Sequence[str]) -> list[str]:
        """Return the classes of a single row."""
        return [names[label] for label in np.flatnonzero(np.bincount(labels) == 1).tolist()]


def _note_classes(classes: ClassIds, declared: Sequence[str], notes: Notes) -> None:
    if absent := [name for name in declared if name not in classes.ids]:
        notes.add(f"classes without a training row are ignored: {listed(absent)}")
    if len(classes.types) > 1:
        types = listed(sorted(t.__name__ for t in classes.types))
        notes.add(f"the labels have several types ({types}) and are compared as text: 1 and '1' are one class")


class TagIds:
    """Assign ids to tags: those of known tags, or new ids in order of appearance.

    Args:
        known, owner: see `Targets.reader`.
        separator: between the tags of a text.
    """

    cell: ClassVar[pa.DataType] = pa.list_(pa.int64())
    fault: ClassVar[str] = "not tags"

    def __init__(self, known: Sequence[str] | None, owner: str, separator: str) -> None:
        self.ids = {name: i for i, name in enumerate(known or ())}
        self.closed, self.owner, self.separator = known is not None, owner, separator

    def read(self, value: Any, names: Sequence[str]) -> list[int]:
        """Return the distinct tag ids of a cell; an empty cell has none.

        Raises:
            ValueError: the cell holds no tags, or an unknown one.
        """
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return []
        tags = self._split(value) if isinstance(value, str) else value
        if not isinstance(tags, Sequence | np.ndarray) or isinstance(tags, bytes):
            raise ValueError(
                f"the tags are {shortened(value)}, expected a list, or text with {self.separator!r} between"
            )
        return list(dict.fromkeys(self._id(tag, names) for tag in tags))

    def _split(self, text: str) -> Sequence[Any]:
        text = text.strip()
        if text.startswith("[") and text.endswith("]"):
            # A list as Python or JSON write it, in a csv file.
            try:
                tags = ast.literal_eval(text)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                tags = None
            if isinstance(tags, list):
                return tags
        parts = next(csv.reader([text.replace("\n", " ")], delimiter=self.separator, skipinitialspace=True), [])
        return [part.strip() for part in parts if part.strip()]

    def _id(self, tag: Any, names: Sequence[str]) -> int:
        if isinstance(tag, list | tuple | dict):
            raise ValueError(f"one of the tags is {shortened(tag)}, expected text or a whole number")
        name = label_name(tag, names)
        if name is None:
            raise ValueError("one of the tags is empty")
        if SURROGATE.search(name):
            raise ValueError(f"the tag {name[:40]!r} holds half a surrogate pair")
        if name not in self.ids and self.closed:
            raise ValueError(
                f"the tag {name!r} is not among the {len(self.ids)} tags of {self.owner} "
                f"({listed(list(self.ids))}){did_you_mean(name, self.ids)}"
            )
        return self.ids.setdefault(name, len(self.ids))


@dataclass(frozen=True)
class MultiLabel(Targets):
    """Any number of tags a row."""

    separator: str = ","
    task = "multi-label"
    column_kinds = ("list", "string", "class")
    expected = "tags: lists, or text with a separator between the tags"
    stratum = "tag"

    def reader(
        self, labels: Sequence[str] | None = None, owner: str = "", values: Mapping[str, str] | None = None
    ) -> TagIds:
        """Return a reader of tag ids."""
        return TagIds(labels, owner, self.separator)

    def settle(self, reader: TagIds, cells: pa.ChunkedArray, column: LabelColumn, notes: Notes) -> Settled:
        """Order the tags: as declared, numerically or alphabetically."""
        if column.label_names:
            raise InputError("data.label_names: expected none with tags, which have names of their own; leave it out")
        labels = order_classes(reader.ids, column.declared)
        if not labels:
            raise InputError(f"{column.place}: no row has a tag in column {column.name!r}; expected some")
        if len(labels) > column.most_classes:
            raise InputError(
                f"{column.place}: column {column.name!r} holds {len(labels):,} tags, expected at most "
                f"{column.most_classes:,}; name another column by --label, or raise --data.limits.classes"
            )
        warn_of_similar(labels, column.place, column.name)
        hot_NC = _multi_hot(cells, len(labels))[:, [reader.ids[name] for name in labels]]
        if everywhere := [name for name, share in zip(labels, hot_NC.mean(axis=0), strict=True) if share == 1]:
            notes.add(f"tags of every training row, of which nothing can be learned: {listed(everywhere)}")
        rows = int((hot_NC.sum(axis=1) == 0).sum())
        notes.add(
            f"{len(labels)} tags, {hot_NC.sum() / len(hot_NC):.3g} a row on average"
            + (f"; {rows} of {len(hot_NC)} training rows have none" if rows else "")
        )
        return Settled(labels, _fixed(hot_NC), {})

    def encode(self, cells: pa.ChunkedArray, labels: Sequence[str]) -> pa.Array:
        """Return a 0 or 1 for each tag."""
        return _fixed(_multi_hot(cells, len(labels)))

    def hold_out(
        self, labels: np.ndarray, first_N: np.ndarray, *, fraction: float, seed: tuple[int, int]
    ) -> np.ndarray:
        """Return the mask of the rows to hold out, see `splits.hold_out_tags`."""
        return splits.hold_out_tags(labels, first_N, fraction=fraction, seed=seed)

    def subsample(self, labels: np.ndarray, *, count: int, seed: tuple[int, int]) -> np.ndarray:
        """Return the mask of `count` rows that have all tags by their share."""
        if count >= len(labels):
            return np.ones(len(labels), dtype=bool)
        mask_N = splits.hold_out_tags(labels, np.arange(len(labels)), fraction=count / len(labels), seed=seed)
        chosen, others = np.flatnonzero(mask_N), np.flatnonzero(~mask_N)
        rng = np.random.default_rng(seed)
        mask_N[rng.permutation(chosen)[count:]] = False
        mask_N[rng.permutation(others)[: max(0, count - len(chosen))]] = True
        return mask_N

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return one group of all rows: tags overlap."""
        return np.zeros(len(labels), dtype=np.int64)


def _multi_hot(cells: pa.ChunkedArray, tags: int) -> np.ndarray:
    """Return a 0 or 1 for each row and tag, shape (N, C), int8."""
    lists = cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells
    hot_NC = np.zeros((len(lists), tags), dtype=np.int8)
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    hot_NC[np.repeat(np.arange(len(lists)), lengths), lists.flatten().to_numpy()] = 1
    return hot_NC


def _fixed(values_NC: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values_NC).ravel()), values_NC.shape[1])


class Numbers:
    """Reads finite numbers."""

    cell: ClassVar[pa.DataType] = pa.float64()
    fault: ClassVar[str] = "not a number"

    def read(self, value: Any, names: Sequence[str]) -> float | None:
        """Return the number of a cell, or None if it is missing.

        Raises:
            ValueError: the cell is no finite number.
        """
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if isinstance(value, str | int | float) and not names:
            try:
                number = float(value)
            except ValueError:
                raise ValueError(f"the target is {shortened(value)}, expected a number") from None
            if math.isnan(number):
                return None
            if math.isfinite(number):
                return number
        raise ValueError(f"the target is {shortened(value)}, expected a finite number")


class Regression(Targets):
    """A number a row."""

    task = "regression"
    column_kinds = ("number", "string")
    expected = "numbers"
    stratum = "range of numbers"

    def reader(
        self, labels: Sequence[str] | None = None, owner: str = "", values: Mapping[str, str] | None = None
    ) -> Numbers:
        """Return a reader of numbers."""
        return Numbers()

    def settle(self, reader: Numbers, cells: pa.ChunkedArray, column: LabelColumn, notes: Notes) -> Settled:
        """Name the target after its column, and refuse one that does not vary."""
        if column.label_names:
            raise InputError("data.label_names: expected none with numbers, which are no classes; leave it out")
        values_N = cells.to_numpy()
        low, high = float(values_N.min()), float(values_N.max())
        if low == high:
            raise InputError(f"{column.place}: every row has the target {low:g}; expected numbers that differ")
        notes.add(
            f"target {column.name!r}: {low:g} to {high:g}, mean {values_N.mean():.4g}, deviation {values_N.std():.4g}"
        )
        return Settled((column.name,), self.encode(cells, ()), {})

    def encode(self, cells: pa.ChunkedArray, labels: Sequence[str]) -> pa.Array:
        """Return the numbers as rows of one target."""
        return _fixed(np.asarray(cells.to_numpy(), dtype=np.float64)[:, None])

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return ranges of equal frequency."""
        count = max(1, min(MOST_STRATA, len(labels) // ROWS_PER_STRATUM))
        edges = np.quantile(labels[:, 0], np.linspace(0, 1, count + 1)[1:-1])
        return np.searchsorted(edges, labels[:, 0], side="left")


TARGETS: tuple[type[Targets], ...] = (SingleLabel, MultiLabel, Regression)


def targets_of(task: TaskName, separator: str | None = None) -> Targets:
    """Return how the labels of a task are read."""
    if task == "multi-label":
        return MultiLabel(separator or ",")
    return next(kind for kind in TARGETS if kind.task == task)()


def infer_task(split: Split, column: str, requested: TaskName | None, separator: str | None, notes: Notes) -> Targets:
    """Return how the labels of a column are read: as requested, else by its content, which is noted.

    Lists are tags, and numbers with fractions are numbers; everything else are classes.

    Raises:
        InputError: a separator for another task.
    """
    if separator is not None and (requested not in (None, "multi-label") or len(separator) != 1):
        expected = "one character" if len(separator) != 1 else f"none with --task {requested}"
        raise InputError(f"--label-separator {separator}: expected {expected}")
    if requested is not None or separator is not None:
        return targets_of(requested or "multi-label", separator)
    if split.columns[column].kind == "list":
        notes.add(f"task: multi-label, as column {column!r} holds lists; another one by --task")
        return MultiLabel()
    if not split.columns[column].names and _has_fractions(split, column):
        notes.add(
            f"task: regression, as column {column!r} holds numbers with fractions; --task single-label makes each "
            "number a class"
        )
        return Regression()
    return SingleLabel()


def _has_fractions(split: Split, column: str) -> bool:
    """Return whether the first labels are numbers, and some of them have fractions."""
    rows = (value for chunk in split.chunks([column]) for value in chunk.columns[column])
    fractions = False
    for value in islice(rows, ROWS_TO_INFER):
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            return False
        try:
            number = float(value)
        except ValueError:
            return False
        # An infinite number is refused later, with its row.
        fractions = fractions or (math.isfinite(number) and not number.is_integer())
    return fractions


def check_label_kind(targets: Targets, column: str, split: Split) -> None:
    """Check that the label column of a split can hold the labels of a task.

    Raises:
        InputError: naming what is expected.
    """
    actual = split.columns[column]
    if actual.kind not in targets.column_kinds and actual.type not in ("nothing", "null"):
        others = [kind.task for kind in TARGETS if actual.kind in kind.column_kinds]
        remedy = f", or use --task {' or '.join(others)}" if others else ""
        raise InputError(
            f"{split.place}: column {column!r} holds {actual.type}, expected {targets.expected} for {targets.task}; "
            f"name another by --label COL{remedy}"
        )
