"""Reader of CoNLL files: a word and its tags on each line, and a blank line behind each sentence."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from hf_finetune.data.config import DataLimits
from hf_finetune.data.readers.table import DROP, Chunk, Column, Fault, TextFile, batched, check_rows
from hf_finetune.data.readers.text_file import note_of_mark, read_lines, too_long, undecodable
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import row_place

SUFFIXES = (".conll", ".iob", ".iob2", ".bio")
# Lines from which the columns of a file, and whether it is one, are inferred.
LINES_INSPECTED = 1_000
_DOCUMENT = "-DOCSTART-"
Sentence = list[list[str]]


@dataclass(frozen=True)
class ConllFile(TextFile):
    """Sentences divided by blank lines. Columns are divided by tabs, or else by spaces: first the words, last the tags.

    Lines that begin a document (-DOCSTART-) are no sentences. Comments before a sentence begin with `# `.
    """

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the file is read."""
        return note_of_mark(self.path, self.encoding)

    @functools.cached_property
    def _width(self) -> int:
        """Number of columns, that of the first word."""
        first = next(self._sentences(), None)
        if first is None:
            raise InputError(f"{self.path}: the file holds no words; expected a word and its tag on each line")
        return len(first[1][0])

    def columns(self) -> dict[str, Column]:
        """Return the columns: `tokens`, perhaps `column_2` and so on, and `tags` unless the lines hold words alone.

        Raises:
            InputError: the file cannot be read, or has no words.
        """
        return {name: Column("list", "lists") for name in self._names()}

    def _names(self) -> list[str]:
        tags = ["tags"] if self._width > 1 else []
        return ["tokens", *(f"column_{i}" for i in range(2, self._width)), *tags]

    def chunks(self, columns: Sequence[str], size: int) -> Iterator[Chunk]:
        """Yield sentences in order, `size` at a time.

        Raises:
            InputError: a line cannot be decoded, or has another number of columns than the first; there are too many
                sentences, or a sentence is too long.
        """
        bytes_of_file = self.path.stat().st_size
        places = [self._names().index(name) for name in columns]
        for first, batch in batched(self._sentences(), size):
            check_rows(self.name, first + len(batch), bytes_of_file, self.limits)
            faults = {i: fault for i, (line, rows) in enumerate(batch) if (fault := self._fault(line, rows))}
            if faults and not self.yields_faults:
                i, fault = next(iter(faults.items()))
                raise InputError(f"{self.path}, {row_place(first + i, batch[i][0])}: {fault.reason}; {DROP}")
            values: dict[str, list] = {
                name: [None if i in faults else [row[at] for row in rows] for i, (_, rows) in enumerate(batch)]
                for name, at in zip(columns, places, strict=True)
            }
            yield Chunk(values, len(batch), self.name, first, lines=[line for line, _ in batch], faults=faults)

    def _fault(self, line: int, rows: Sentence) -> Fault | None:
        if self.yields_faults and (wrong := undecodable("".join(map("".join, rows)), self.encoding)):
            return Fault("undecodable row", wrong)
        other = next((i for i, row in enumerate(rows) if len(row) != self._width), None)
        if other is None:
            return None
        got = f"{len(rows[other])} ({' '.join(rows[other])[:40]!r})"
        return Fault(
            "malformed row", f"line {line + other}: expected {self._width} columns as the first word has, got {got}"
        )

    def _sentences(self) -> Iterator[tuple[int, Sentence]]:
        """Yield the words of each sentence with all columns, and the line of its first word."""
        strict = not self.yields_faults
        lines = read_lines(self.path, self.encoding, self.limits, strict=strict, remedy=f", or {DROP}")
        start, rows, characters = 1, Sentence(), 0
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                if rows:
                    yield start, rows
                rows, characters = [], 0
            elif not line.startswith(_DOCUMENT) and (rows or not line.startswith("# ")):
                start = start if rows else number
                rows.append(_split(line))
                characters += len(line)
                if characters > self.limits.row_characters:
                    raise too_long(f"{self.path}, line {start}: a sentence", self.limits)
        if rows:
            yield start, rows


def _split(line: str) -> list[str]:
    line = line.rstrip("\r\n")
    return [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()


def is_conll(path: Path, encoding: str, limits: DataLimits) -> bool:
    """Return whether a .txt file holds words and tags: lines of as many columns, and blank lines between them."""
    try:
        lines = [line.rstrip() for line in islice(read_lines(path, encoding, limits, strict=False), LINES_INSPECTED)]
    except InputError:
        return False  # which is refused where the file is read
    while lines and not lines[-1]:
        lines.pop()
    widths = {len(_split(line)) for line in lines if line and not line.startswith((_DOCUMENT, "# "))}
    return "" in lines and len(widths) == 1 and min(widths) >= 2
