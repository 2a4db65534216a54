"""The contract of the readers: columns, and chunks of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from hf_finetune.data.config import DEFAULT_LIMITS, DataLimits
from hf_finetune.data.image_paths import ImageFolder
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import row_place

T = TypeVar("T")


@dataclass(frozen=True)
class Column:
    """The content of a column."""

    kind: Literal["string", "number", "class", "list", "columns", "image", "other"]
    type: str
    """Description for messages."""
    names: tuple[str, ...] = ()
    """Class names, for kind class, and for lists of classes; the columns, for kind columns."""
    numeric: bool = False
    """Whether all strings are numbers, and so no texts."""
    names_images: bool = False
    """Whether all strings are names of image files, and so no texts."""


@dataclass(frozen=True)
class Fault:
    """Why a row cannot be used."""

    kind: str
    """The kind of fault, by which rows are counted: `text missing`."""
    reason: str
    """The fault of this row, for messages."""


DROP = "--drop-bad-rows leaves such rows out"
"""The remedy for a row that cannot be read."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a table."""

    columns: dict[str, list]
    size: int
    source: str
    """The table, for messages."""
    first: int = 0
    """Number of the first row in the table, from 0."""
    lines: Sequence[int | None] = ()
    """Line number of each row, in text files."""
    files: Sequence[str] = ()
    """File of each row relative to the folder `source`, if every row is a file."""
    objects: Sequence[Mapping[str, Any]] = ()
    """The JSON object of each row, which may lack a column."""
    images: ImageFolder | None = None
    """The folder of the images that are named by their path. None: there can be no paths."""
    faults: Mapping[int, Fault] = field(default_factory=dict)
    """Rows that could not be read, by their index; their cells are None."""

    def place(self, i: int) -> str:
        """Return file and number of the i-th row, for messages."""
        if self.files:
            return str(Path(self.source) / self.files[i])
        return f"{self.source}, {row_place(self.first + i, self.lines[i] if self.lines else None)}"


class Reader(Protocol):
    """A source of rows: a file, a folder, or a split on the Hub."""

    @property
    def name(self) -> str:
        """The source, for messages."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the rows are read."""

    @property
    def skipped(self) -> Sequence[tuple[str, int]]:
        """Number of files that are not read, by suffix."""

    @property
    def limits(self) -> DataLimits:
        """Limits on the rows."""

    def columns(self) -> dict[str, Column]:
        """Return the columns in order.

        Raises:
            InputError: the source cannot be read, or has no rows.
        """

    def chunks(self, columns: Sequence[str], size: int) -> Iterator[Chunk]:
        """Yield the rows in order, at most `size` at a time.

        Raises:
            InputError: the source cannot be read.
        """


@dataclass(frozen=True)
class DataFile:
    """A file or folder of rows."""

    path: Path
    limits: DataLimits = field(default=DEFAULT_LIMITS, kw_only=True)
    skipped: tuple[tuple[str, int], ...] = field(default=(), kw_only=True)
    """Number of files of a folder that are not read, by suffix."""
    image_root: str | None = field(default=None, kw_only=True)
    """Folder of the images that are named by their path, or another one to which links may lead. None: that of the
    file."""
    yields_faults: bool = field(default=False, kw_only=True)
    """Yield rows that cannot be read as faults, in place of refusing the file."""

    @property
    def name(self) -> str:
        """The path, for messages."""
        return str(self.path)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the rows are read."""
        return ()


@dataclass(frozen=True)
class TextFile(DataFile):
    """A file or folder of texts."""

    encoding: str = "utf-8"


def check_columns(name: str, columns: int, limits: DataLimits) -> None:
    """Refuse a table of too many columns.

    Args:
        name: of the source, begins the message.
    """
    if columns > limits.columns:
        expected = f"expected {limits.columns:,} or less; leave some out or raise --data.limits.columns"
        raise InputError(f"{name}: {columns:,} columns, {expected}")


def check_rows(name: str, rows: int, size: int, limits: DataLimits) -> None:
    """Refuse more rows than the limit, and than the bytes that hold them.

    Args:
        name: of the source, begins the message.
        size: bytes on the disk.
    """
    if rows > max(limits.rows, size):
        expected = f"expected {limits.rows:,} or less; if you trust it, raise --data.limits.rows"
        raise InputError(f"{name}: {rows:,} rows or more in {size:,} bytes, {expected}")


def batched(rows: Iterable[T], size: int) -> Iterator[tuple[int, list[T]]]:
    """Yield lists of at most `size` rows, each with the number of its first row."""
    rows, first = iter(rows), 0
    while batch := list(islice(rows, size)):
        yield first, batch
        first += len(batch)
