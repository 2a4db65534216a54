"""Labels that are any number of tags a row.

Legend: N rows, C tags.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_finetune.data import splits
from hf_finetune.data.labels import SURROGATE, label_name, literal_list, order_classes, shortened, warn_of_similar
from hf_finetune.data.targets.base import LabelColumn, Settled, Targets, fixed_lists
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import Notes, counted, did_you_mean, listed, plural

MARKS: dict[Any, bool] = {None: False, "": False, 0: False, "0": False, "0.0": False, "false": False}
MARKS |= {1: True, "1": True, "1.0": True, "true": True}
"""Whether a row has a tag, by the cell of the tag's column."""


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
        if isinstance(value, Mapping) and names:
            return [self._id(column, ()) for column, cell in value.items() if is_marked(column, cell)]
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
        if isinstance(tags := literal_list(text), list):
            return tags
        # A line break within quotation marks is none; the blanks of a blank are the separators.
        blanks = self.separator != " "
        rows = csv.reader([" ".join(text.splitlines())], delimiter=self.separator, skipinitialspace=blanks)
        try:
            parts = next(rows, [])
        except csv.Error as error:
            raise ValueError(f"the tags are {shortened(text)}, which cannot be divided ({error})") from None
        return [part.strip() for part in parts if part.strip()]

    def _id(self, tag: Any, names: Sequence[str]) -> int:
        if isinstance(tag, list | tuple | dict):
            raise ValueError(f"one of the tags is {shortened(tag)}, expected text or a whole number")
        name = label_name(tag, names, tag="one of the tags")
        if name is None:
            raise ValueError("one of the tags is empty")
        if SURROGATE.search(name):
            raise ValueError(f"the tag {name[:40]!r} holds half a surrogate pair")
        if name not in self.ids and self.closed:
            raise ValueError(
                f"the tag {name!r} is not among the {counted(len(self.ids), 'tag')} of {self.owner} "
                f"({listed(list(self.ids))}){did_you_mean(name, self.ids)}"
            )
        return self.ids.setdefault(name, len(self.ids))


def is_marked(column: str, cell: Any) -> bool:
    """Return whether a row has the tag of a column.

    Raises:
        ValueError: the cell is no 0 or 1, no truth value, and not empty.
    """
    value = cell.strip().lower() if isinstance(cell, str) else cell
    if isinstance(value, float) and math.isnan(value):
        return False
    if isinstance(value, str | int | float | None) and value in MARKS:
        return MARKS[value]
    raise ValueError(
        f"column {column!r} holds {shortened(cell)}, expected 0 or 1, true or false, or an empty cell; numbers need "
        "--task regression"
    )


SEPARATORS = "one character, but no quotation mark and no line break"


def is_separator(text: str) -> bool:
    """Return whether a text can be between two tags, see `SEPARATORS`."""
    return len(text) == 1 and text != '"' and text.splitlines() != [""]


@dataclass(frozen=True)
class MultiLabel(Targets):
    """Any number of tags a row."""

    separator: str = ","
    task = "multi-label"
    column_kinds = ("list", "string", "class", "columns")
    expected = "tags: lists, text with a separator between the tags, or one column a tag"
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
        if absent := [name for name in column.declared if name not in reader.ids]:
            notes.add(f"tags without a training row are ignored: {listed(absent)}")
        if everywhere := [name for name, share in zip(labels, hot_NC.mean(axis=0), strict=True) if share == 1]:
            notes.add(f"tags of every training row, of which nothing can be learned: {listed(everywhere)}")
        rows = int((hot_NC.sum(axis=1) == 0).sum())
        notes.add(
            f"{counted(len(labels), 'tag')}, {hot_NC.sum() / len(hot_NC):.3g} a row on average"
            + (f"; {rows} of {len(hot_NC)} training rows {plural(rows, 'has', 'have')} none" if rows else "")
        )
        return Settled(labels, fixed_lists(hot_NC), {})

    def encode(self, cells: pa.ChunkedArray, labels: Sequence[str]) -> pa.Array:
        """Return a 0 or 1 for each tag."""
        return fixed_lists(_multi_hot(cells, len(labels)))

    def hold_out(
        self, labels: np.ndarray, first_N: np.ndarray, *, fraction: float, seed: tuple[int, int]
    ) -> np.ndarray:
        """Return the mask of the rows to hold out, see `splits.hold_out_tags`."""
        return splits.hold_out_tags(labels, first_N, fraction=fraction, seed=seed)

    def subsample(self, labels: np.ndarray, *, count: int, seed: tuple[int, int]) -> np.ndarray:
        """Return the mask of `count` rows that have all tags by their share."""
        return splits.subsample_tags(labels, count=count, seed=seed)

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
