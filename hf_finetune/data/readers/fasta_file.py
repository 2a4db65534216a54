"""Reader of FASTA files: a header line `>id`, or `>id|label`, and the lines of its sequence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from hf_finetune.data.readers.table import Chunk, Column, TextFile, batched, check_rows
from hf_finetune.data.readers.text_file import note_of_mark, read_lines, too_long
from hf_finetune.errors import InputError

SUFFIXES = (".fasta", ".fa", ".fna", ".faa", ".ffn")
# Headers have labels if so many of them have: `>seq1|promoter`, but not `>sp|P69905|HBA_HUMAN Hemoglobin`.
HEADERS_INSPECTED = 1000
_LABELED = re.compile(r"([^|]+)\|\s*([^|]+?)\s*")


class Record(NamedTuple):
    """A sequence with its header."""

    header: str
    sequence: str
    line: int
    """Number of the header's line."""


@dataclass(frozen=True)
class FastaFile(TextFile):
    """Sequences with the columns `id`, `sequence` and, if the headers or the file have them, `label`."""

    label: str | None = field(default=None, kw_only=True)
    """Class of all sequences: where each class has a file of its own."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the file is read."""
        return note_of_mark(self.path, self.encoding)

    def columns(self) -> dict[str, Column]:
        """Return the columns in order.

        Raises:
            InputError: see `chunks`.
        """
        headers = [record.header for record in islice(self._records(), HEADERS_INSPECTED)]
        columns = {"id": Column("string", "text"), "sequence": Column("string", "text")}
        if self.label is not None:
            columns["label"] = Column("string", "file names")
        elif all(map(_LABELED.fullmatch, headers)):
            columns["label"] = Column("string", "text")
        return columns

    def chunks(self, columns: Sequence[str], size: int) -> Iterator[Chunk]:
        """Yield rows in order, `size` at a time.

        Raises:
            InputError: there is no record, or a line before the first header; or there are too many sequences, or one
                is too long.
        """
        bytes_of_file = self.path.stat().st_size
        for first, records in batched(self._records(), size):
            check_rows(self.name, first + len(records), bytes_of_file, self.limits)
            cells = {name: [self._cell(name, record) for record in records] for name in columns}
            yield Chunk(cells, len(records), self.name, first, lines=[record.line for record in records])

    def _cell(self, column: str, record: Record) -> str | None:
        if column == "sequence":
            return record.sequence
        labeled = _LABELED.fullmatch(record.header)
        if column == "label":
            return self.label if self.label is not None else labeled and labeled[2]
        return labeled[1] if labeled and self.label is None else record.header

    def _records(self) -> Iterator[Record]:
        header, start, parts, letters = None, 0, list[str](), 0
        for number, line in enumerate(read_lines(self.path, self.encoding, self.limits), start=1):
            line = line.strip()
            if line.startswith(">"):
                if header is not None:
                    yield Record(header, "".join(parts), start)
                header, start, parts, letters = line[1:].strip(), number, [], 0
            elif line and not line.startswith(";"):
                if header is None:
                    raise InputError(f"{self.path}, line {number}: expected a header, >ID, before the first sequence")
                parts.append(line)
                letters += len(line)
                if letters > self.limits.row_characters:
                    raise too_long(f"{self.path}, line {number}: {header[:60]!r}", self.limits)
        if header is None:
            raise InputError(f"{self.path}: no sequence in it; expected headers, >ID, each followed by its sequence")
        yield Record(header, "".join(parts), start)
