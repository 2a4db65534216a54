"""Reader of csv and tsv files."""

import csv
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hf_finetune.data.readers.table import Chunk, Column, TextFile, batched
from hf_finetune.data.readers.text_file import read_lines
from hf_finetune.errors import InputError

# The content of a column is inferred from this many rows.
ROWS_INSPECTED = 1000
_DELIMITERS = {",": ("comma", "commas", "name it .csv"), "\t": ("tab", "tabs", "name it .tsv")}
_DELIMITERS[";"] = ("semicolon", "semicolons", "save it with commas")


@dataclass(frozen=True)
class CsvFile(TextFile):
    """Comma- or tab-separated rows with a header; quoted as in RFC 4180, or unquoted if a .tsv is readable only so."""

    @property
    def _delimiter(self) -> str:
        return "\t" if self.path.suffix.lower() == ".tsv" else ","

    @functools.cached_property
    def literal(self) -> bool:
        """Whether quotation marks are plain characters: in a .tsv that is readable only so, like GLUE's."""
        if self._delimiter == "," or self._header_if_readable(quoted=True) is not None:
            return False
        header = self._header_if_readable(quoted=False)
        return header is not None and not any('"' in name for name in header)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the file is read."""
        note = f"{self.path.name}: quotation marks are read as plain characters, as they do not enclose whole fields"
        return (note,) if self.literal else ()

    def columns(self) -> dict[str, Column]:
        """Return the columns in order.

        Raises:
            InputError: see `chunks`.
        """
        _, header = next(self._records(quoted=not self.literal))
        first = next(self.chunks(header, ROWS_INSPECTED))
        return {name: Column("string", "text", numeric=_all_numbers(first.columns[name])) for name in header}

    def chunks(self, columns: Sequence[str], size: int) -> Iterator[Chunk]:
        """Yield rows in order, `size` at a time, without blank lines.

        Raises:
            InputError: a line cannot be decoded or is malformed; or there are no rows.
        """
        records = self._records(quoted=not self.literal)
        _, header = next(records)
        positions = {name: header.index(name) for name in columns}
        empty = True
        for first, batch in batched(records, size):
            empty = False
            values = {name: [record[at] for _, record in batch] for name, at in positions.items()}
            yield Chunk(values, len(batch), self.name, first, lines=[line for line, _ in batch])
        if empty:
            raise InputError(f"{self.path}: a header and no rows; expected one row per example below it")

    def _header_if_readable(self, *, quoted: bool) -> list[str] | None:
        """Return the header if the whole file is readable with this quoting."""
        records = self._records(quoted=quoted)
        try:
            _, header = next(records)
            for _ in records:
                pass
        except InputError:
            return None
        return header

    def _records(self, *, quoted: bool) -> Iterator[tuple[int, list[str]]]:
        """Yield the header, then the rows, each with the number of its first line."""
        csv.field_size_limit(2**31 - 1)
        # strict refuses an unbalanced quotation mark, which would swallow the rows up to the next one.
        reader = csv.reader(
            read_lines(self.path, self.encoding),
            delimiter=self._delimiter,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            strict=True,
        )
        header: list[str] = []
        row, line = 0, 1
        try:
            for record in reader:
                if record and not header:
                    header = [name.strip() for name in record]
                    self._check_header(header)
                    yield line, header
                elif record:
                    row += 1
                    if len(record) != len(header):
                        raise self._wrong_length(record, header, row, line)
                    yield line, record
                line = reader.line_num + 1
        except csv.Error as error:
            reason = "a quotation mark is never closed" if "end of data" in str(error) else str(error)
            raise InputError(
                f"{self.path}, line {line}: {reason}; a field that begins with a quotation mark must end with one, "
                "and those inside it must be doubled"
            ) from None
        if not header:
            raise InputError(
                f"{self.path}: the file is empty; expected a header line that names the columns, then rows"
            )

    def _check_header(self, header: list[str]) -> None:
        if twice := sorted({name for name in header if header.count(name) > 1}):
            raise InputError(f"{self.path}: the header names the column {twice[0]!r} twice; rename one of them")
        for delimiter in (";", "\t", ","):
            if len(header) == 1 and delimiter != self._delimiter and delimiter in header[0]:
                _, name, remedy = _DELIMITERS[delimiter]
                raise InputError(
                    f"{self.path}: the header {header[0]!r} is one column; the file seems to be separated by {name}, "
                    f"expected {_DELIMITERS[self._delimiter][1]}: {remedy}"
                )

    def _wrong_length(self, record: list[str], header: list[str], row: int, line: int) -> InputError:
        hint = ""
        if len(record) > len(header):
            hint = f"; a field that contains a {_DELIMITERS[self._delimiter][0]} must be enclosed in quotation marks"
        return InputError(
            f"{self.path}, row {row} (line {line}): expected {len(header)} fields as in the header, "
            f"got {len(record)}{hint}"
        )


def _all_numbers(values: list[str]) -> bool:
    try:
        return len([float(value) for value in values if value.strip()]) > 0
    except ValueError:
        return False
