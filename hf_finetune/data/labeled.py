"""Labeled rows in the splits that the data have: selected, read and checked, and not yet divided further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hf_finetune.data.columns import require_columns
from hf_finetune.data.config import Kind, Role, Source, SplitOptions
from hf_finetune.data.duplicates import row_digests
from hf_finetune.data.labels import ClassIds, check_classes, order_classes
from hf_finetune.data.rows import UnusableRow, read_rows, to_dataset, to_table
from hf_finetune.data.split_selection import Selection, select_splits
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import Notes, listed


@dataclass(frozen=True)
class SplitRows:
    """Rows of one split, with their digests and classes."""

    table: pa.Table
    digests: list[bytes]
    """See `duplicates.row_digests`."""
    labels_N: np.ndarray
    """Class of each row."""

    def __len__(self) -> int:
        return len(self.digests)

    def where(self, mask_N: np.ndarray) -> SplitRows:
        """The rows of a mask, in order."""
        digests = [digest for digest, chosen in zip(self.digests, mask_N, strict=True) if chosen]
        return SplitRows(self.table.filter(pa.array(mask_N)), digests, self.labels_N[mask_N])

    def followed_by(self, other: SplitRows) -> SplitRows:
        """These rows, and behind them the others."""
        return SplitRows(
            pa.concat_tables([self.table, other.table]),
            [*self.digests, *other.digests],
            np.concatenate([self.labels_N, other.labels_N]),
        )


@dataclass(frozen=True)
class LabeledData:
    """Labeled rows by what they are for."""

    selection: Selection
    rows: dict[Role, SplitRows]
    labels: tuple[str, ...]
    """Class names; a row's `label` is the index."""
    unusable: dict[Role, list[UnusableRow]]
    """The rows that are left out, see `read_labeled`."""

    @property
    def places(self) -> dict[Role, str]:
        """What each split was read from."""
        return {role: split.place for role, split in self.selection.labeled.items()}

    @property
    def datasets(self) -> dict[Role, Dataset]:
        """The rows of each split."""
        return {role: to_dataset(rows.table) for role, rows in self.rows.items()}


def read_labeled(
    source: Source, kind: Kind, options: SplitOptions, notes: Notes, *, leave_out_unusable: bool = False
) -> LabeledData:
    """Read every labeled split, its labels numbered alike; the classes are those of train.

    Args:
        leave_out_unusable: leave out rows that cannot be used, instead of refusing them.

    Raises:
        InputError: see `loading.load`; no training row can be used.
    """
    selection = select_splits(source, kind, options, notes)
    columns, train = selection.columns, selection.labeled["train"]
    unusable: dict[Role, list[UnusableRow]] = {}

    def read(role: Role, classes: ClassIds) -> pa.Table:
        aside = unusable.setdefault(role, []) if leave_out_unusable else None
        return to_table(list(read_rows(selection.labeled[role], columns, classes, unusable=aside)))

    for split in selection.labeled.values():
        require_columns(columns, split.columns, place=split.place, like=train.place)
    classes = ClassIds()
    tables: dict[Role, pa.Table] = {"train": read("train", classes)}
    if not len(tables["train"]):
        first = unusable["train"][0]
        raise InputError(f"{first.place}: {first.reason}; no training row can be used")
    declared = train.columns[columns["label"]].names
    labels = order_classes(classes.ids, declared)
    _note_classes(classes, declared, notes)
    check_classes(labels, len(tables["train"]), train.place, columns["label"])
    ids = {name: i for i, name in enumerate(labels)}
    tables["train"] = _renumbered(tables["train"], np.array([ids[name] for name in classes.ids]))
    for role in selection.labeled:
        if role != "train":
            tables[role] = read(role, ClassIds(labels, "the training rows"))
    rows = {role: SplitRows(table, row_digests(table), table["label"].to_numpy()) for role, table in tables.items()}
    return LabeledData(selection, rows, labels, unusable)


def _note_classes(classes: ClassIds, declared: Sequence[str], notes: Notes) -> None:
    if absent := [name for name in declared if name not in classes.ids]:
        notes.add(f"classes without a training row are left out: {listed(absent)}")
    if len(classes.types) > 1:
        types = listed(sorted(t.__name__ for t in classes.types))
        notes.add(f"the labels are of several types ({types}) and count as their text: 1 and '1' are one class")


def _renumbered(table: pa.Table, numbers: np.ndarray) -> pa.Table:
    position = table.column_names.index("label")
    return table.set_column(position, "label", pa.array(numbers[table["label"].to_numpy()], pa.int64()))
