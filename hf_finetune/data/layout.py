"""The splits of a data source."""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_finetune.data.config import DataLimits, Role
from hf_finetune.data.readers.csv_file import ROWS_INSPECTED
from hf_finetune.data.readers.table import Chunk, Column, Reader
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import counted, listed, plural

_ROLES: dict[str, Role] = {"train": "train", "test": "test"}
_ROLES |= {name: "validation" for name in ("validation", "valid", "val", "dev")}


def role_of(name: str, *, exact: bool = False) -> Role | None:
    """Return the role that a split's name tells; unless `exact`, also by its first part (`test_matched`)."""
    name = name.lower()
    return _ROLES.get(name) or (None if exact else _ROLES.get(re.split(r"[_-]", name)[0]))


@dataclass(frozen=True)
class Split:
    """Rows of one or several readers, in order."""

    name: str
    readers: tuple[Reader, ...]

    @property
    def place(self) -> str:
        """Where the rows are, for messages."""
        return self.readers[0].name

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the files are read."""
        return tuple(note for reader in self.readers for note in reader.notes)

    @property
    def limits(self) -> DataLimits:
        """Limits on the rows."""
        return self.readers[0].limits

    @property
    def skipped(self) -> Counter[str]:
        """Number of files in class folders that are not read, by suffix."""
        return sum((Counter(dict(reader.skipped)) for reader in self.readers), Counter())

    def same_rows(self, other: Split) -> bool:
        """Return whether two splits read the same files, or the same split on the Hub."""
        return [os.path.realpath(r.name) for r in self.readers] == [os.path.realpath(r.name) for r in other.readers]

    @functools.cached_property
    def columns(self) -> dict[str, Column]:
        """Columns of the first reader.

        Raises:
            InputError: it cannot be read, or has no rows.
        """
        return self.readers[0].columns()

    def first_cells(self, columns: Sequence[str]) -> dict[str, list[Any]]:
        """Return the first cells of columns, up to 1,000; nothing if they cannot be read."""
        try:
            return next(self.readers[0].chunks(columns, ROWS_INSPECTED)).columns
        except InputError:
            return {}

    def chunks(self, columns: Sequence[str], size: int = 1024) -> Iterator[Chunk]:
        """Yield rows in order, at most `size` at a time.

        Raises:
            InputError: a file cannot be read, or lacks a column that the first one has.
        """
        for reader in self.readers:
            known = columns if reader is self.readers[0] else reader.columns()
            if missing := [column for column in columns if column not in known]:
                raise InputError(f"{reader.name}: no column {missing[0]!r}, which {self.place} has")
            yield from reader.chunks(columns, size)


@dataclass(frozen=True)
class Layout:
    """The splits of a data source."""

    splits: dict[str, Split]
    others: dict[str, Split] = field(default_factory=dict)
    """Files that are read only when they are named."""
    notes: tuple[str, ...] = ()

    @property
    def by_name(self) -> dict[str, Split]:
        """All splits and other files."""
        return self.splits | self.others


def skipped_files(splits: Sequence[Split]) -> str:
    """Return a note on the files of class folders that are not read, counted by suffix."""
    counts = sum((split.skipped for split in splits), Counter[str]())
    by_suffix = listed([f"{count} {suffix}" for suffix, count in counts.most_common()], most=12)
    verb = plural(counts.total(), "is", "are")
    return f"{counted(counts.total(), 'file')} in the class folders {verb} not read: {by_suffix}"
