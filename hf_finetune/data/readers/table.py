"""What a reader says of a table's columns, and the rows it reads a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Column:
    """What a column holds."""

    kind: Literal["string", "number", "class", "list", "image", "other"]
    type: str
    """In words, for messages."""
    names: tuple[str, ...] = ()
    """Of the classes, for kind class."""
    numeric: bool = False
    """Strings that are all numbers: nobody's text."""


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
    """Line of each row, in files that have lines."""
    files: Sequence[str] = ()
    """File of each row below the folder `source`, where every row is a file."""
    objects: Sequence[Mapping[str, Any]] = ()
    """Each row as JSON has it, where rows may lack a column."""

    def place(self, i: int) -> str:
        """The i-th of these rows as a person finds it: file and row."""
        if self.files:
            return str(Path(self.source) / self.files[i])
        line = self.lines[i] if self.lines else None
        return f"{self.source}, row {self.first + i + 1}" + ("" if line is None else f" (line {line})")


@dataclass(frozen=True)
class DataFile:
    """A file or folder of rows."""

    path: Path

    @property
    def name(self) -> str:
        """As the user named it."""
        return str(self.path)


@dataclass(frozen=True)
class TextFile(DataFile):
    """A file or folder whose texts are in some encoding."""

    encoding: str = "utf-8"


def batched(rows: Iterable[T], size: int) -> Iterator[tuple[int, list[T]]]:
    """Rows in lists of at most `size`, each with the number of its first row."""
    rows, first = iter(rows), 0
    while batch := list(islice(rows, size)):
        yield first, batch
        first += len(batch)
