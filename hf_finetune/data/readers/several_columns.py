"""Reader of one column for each tag or target, which the rows have as a single one."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property

from hf_finetune.data.config import DataLimits, column_title
from hf_finetune.data.readers.table import Chunk, Column, Reader
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import did_you_mean, quoted


def label_columns(label: str | tuple[str, ...] | None, columns: Collection[str]) -> tuple[str, ...]:
    """Return the columns that names and patterns (`tag_*`) stand for together; none if one of them has no column.

    A column whose own name has a comma or an asterisk is one column.
    """
    if label is None or column_title(label) in columns:
        return ()
    matches = [_matches(name, columns) for name in _names(label)]
    return tuple(column for each in matches for column in each) if all(matches) else ()


def _names(label: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the names and patterns of a label."""
    return label if isinstance(label, tuple) else (label,)


def _matches(name: str, columns: Collection[str]) -> list[str]:
    """Return the columns that a name or pattern stands for."""
    if name in columns or "*" not in name:
        return [name] if name in columns else []
    return [column for column in columns if fnmatchcase(column, name)]


@dataclass(frozen=True)
class SeveralColumns:
    """The rows of a reader, with the columns of tags or targets as one: mappings from column to cell."""

    reader: Reader
    label: str | tuple[str, ...]
    """Names, or patterns with asterisks."""

    @property
    def name(self) -> str:
        """The source, for messages."""
        return self.reader.name

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the rows are read."""
        return self.reader.notes

    @property
    def skipped(self) -> Sequence[tuple[str, int]]:
        """Number of files that are not read, by suffix."""
        return self.reader.skipped

    @property
    def limits(self) -> DataLimits:
        """Limits on the rows."""
        return self.reader.limits

    @property
    def title(self) -> str:
        """Name of the column that holds the others."""
        return str(column_title(self.label))

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The columns of tags or targets; none if one column has this very name.

        Raises:
            InputError: there are no such columns, one is named twice, or holds neither tags nor numbers.
        """
        columns = self.reader.columns()
        parts, place = label_columns(self.label, columns), self.name
        if not parts and self.title not in columns:
            missing = next(name for name in _names(self.label) if not _matches(name, columns))
            raise InputError(
                f"--label {missing}: {place} has no such column{did_you_mean(missing, columns)}; it has "
                f"{quoted(columns)}"
            )
        if twice := [name for name, count in Counter(parts).items() if count > 1]:
            raise InputError(f"--label {self.title}: the column {twice[0]!r} is named twice")
        for name in parts:
            if columns[name].kind not in ("string", "number") and columns[name].type not in ("nothing", "null"):
                raise InputError(
                    f"{place}: column {name!r} holds {columns[name].type}, expected 0 or 1 for a tag, or numbers, as "
                    "there are several label columns"
                )
        return parts

    def columns(self) -> dict[str, Column]:
        """Return the columns, with one in place of those of tags or targets.

        Raises:
            InputError: see `parts`; or the source cannot be read.
        """
        columns = {name: column for name, column in self.reader.columns().items() if name not in self.parts}
        if self.parts:
            columns[self.title] = Column("columns", f"{len(self.parts)} columns", self.parts)
        return columns

    def chunks(self, columns: Sequence[str], size: int) -> Iterator[Chunk]:
        """Yield rows in order, at most `size` at a time.

        Raises:
            InputError: the source cannot be read.
        """
        if not self.parts or self.title not in columns:
            yield from self.reader.chunks(columns, size)
            return
        others = [name for name in columns if name != self.title]
        for chunk in self.reader.chunks([*others, *self.parts], size):
            cells = zip(*(chunk.columns[name] for name in self.parts), strict=True)
            values = {name: chunk.columns[name] for name in others}
            values[self.title] = [dict(zip(self.parts, row, strict=True)) for row in cells]
            # A key that a JSON object lacks is an empty cell.
            objects = [{**each, self.title: None} for each in chunk.objects]
            yield replace(chunk, columns=values, objects=objects)
