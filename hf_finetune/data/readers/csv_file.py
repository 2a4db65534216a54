"""Reader of csv and tsv files, and of tables in .txt files."""

import csv
import functools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from hf_finetune.data.image_decoding import are_image_names
from hf_finetune.data.image_paths import beside
from hf_finetune.data.readers.compressed import format_of
from hf_finetune.data.readers.table import DROP, Chunk, Column, Fault, TextFile, batched, check_columns, check_rows
from hf_finetune.data.readers.text_file import note_of_mark, read_lines, undecodable
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import counted, row_place

# The content of a column is inferred from this many rows; the delimiter from fewer.
ROWS_INSPECTED, ROWS_DELIMITED = 1000, 100
# Rows are counted so many at a time.
ROWS_CHECKED = 1000
# Names of the delimiters, in singular and plural, in the order in which they are tried.
_DELIMITERS = {",": ("comma", "commas"), ";": ("semicolon", "semicolons"), "\t": ("tab", "tabs"), "|": ("bar", "bars")}


@dataclass(frozen=True)
class CsvFile(TextFile):
    """Separated rows with a header, by the delimiter that the first rows tell.

    They are quoted as in RFC 4180, or unquoted if a file with tabs is readable only so.
    """

    @functools.cached_property
    def _delimiter(self) -> str:
        """The first delimiter that divides the header and the first rows into equally many fields, at least two.

        Commas come first, in a .tsv or .txt file tabs. They are what a file of a single column has, too. Where no
        delimiter fits, a row is malformed, and the header decides.
        """
        usual = "," if format_of(self.path) == ".csv" else "\t"
        lines = list(islice(self._lines(), ROWS_DELIMITED))
        header = next((line for line in lines if line.strip()), "")
        candidates = [each for each in sorted(_DELIMITERS, key=lambda each: each != usual) if each in header]
        fitting = [delimiter for delimiter in candidates if _divides(lines, delimiter)]
        return next(iter([*fitting, *candidates]), usual)

    @functools.cached_property
    def literal(self) -> bool:
        """Whether quotation marks are plain characters: in a .tsv that is readable only so, like GLUE's."""
        if self._delimiter != "\t" or not (faults := self._count_faults(quoted=True)):
            return False
        header = self._header(quoted=False)
        return self._count_faults(quoted=False) < (faults if self.yields_faults else 1) and '"' not in "".join(header)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the file is read."""
        notes = list(note_of_mark(self.path, self.encoding))
        if self._delimiter != {".csv": ",", ".tsv": "\t"}.get(format_of(self.path)):
            notes.append(f"{self.path.name}: separated by {_DELIMITERS[self._delimiter][1]}")
        if self.literal:
            notes.append(
                f"{self.path.name}: quotation marks are read as plain characters, as they do not enclose whole fields"
            )
        return tuple(notes)

    def columns(self) -> dict[str, Column]:
        """Return the columns in order.

        Raises:
            InputError: see `chunks`.
        """
        header = self._header(quoted=not self.literal)
        check_columns(self.name, len(header), self.limits)
        first = next(self.chunks(header, ROWS_INSPECTED))
        return {
            name: Column("string", "text", numeric=_all_numbers(values), names_images=are_image_names(values))
            for name, values in first.columns.items()
        }

    def chunks(self, columns: Sequence[str], size: int) -> Iterator[Chunk]:
        """Yield rows in order, `size` at a time, without blank lines.

        Raises:
            InputError: a line cannot be decoded or is malformed; or there are no rows.
        """
        header, records = self._header(quoted=not self.literal), self._records(quoted=not self.literal)
        next(records)
        places = {name: at for at, name in enumerate(header)}
        positions = {name: places[name] for name in columns}
        images = beside(self.path, self.image_root)
        empty = True
        for first, batch in batched(records, size):
            empty = False
            faults = {i: record for i, (_, record) in enumerate(batch) if isinstance(record, Fault)}
            if faults and not self.yields_faults:
                i, fault = next(iter(faults.items()))
                place = f"{self.path}, {row_place(first + i, batch[i][0])}"
                raise InputError(f"{place}: {fault.reason}; {DROP}")
            rows = [[None] * len(header) if isinstance(record, Fault) else record for _, record in batch]
            values: dict[str, list] = {name: [row[at] for row in rows] for name, at in positions.items()}
            lines = [line for line, _ in batch]
            yield Chunk(values, len(batch), self.name, first, lines=lines, images=images, faults=faults)
        if empty:
            raise InputError(f"{self.path}: a header and no rows; expected one row per example below it")

    def _header(self, *, quoted: bool) -> list[str]:
        _, header = next(self._records(quoted=quoted))
        assert not isinstance(header, Fault), "the header is refused, not dropped"
        return header

    def _lines(self) -> Iterator[str]:
        return read_lines(self.path, self.encoding, self.limits, strict=not self.yields_faults, remedy=f", or {DROP}")

    def _count_faults(self, *, quoted: bool) -> float:
        """Return the number of rows that are not readable with this quoting; infinity if a line is not."""
        try:
            return sum(isinstance(record, Fault) for _, record in self._records(quoted=quoted))
        except InputError:
            return math.inf

    def _records(self, *, quoted: bool) -> Iterator[tuple[int, list[str] | Fault]]:
        """Yield the header, then the rows, each with the number of its first line."""
        csv.field_size_limit(2**31 - 1)
        # strict refuses an unbalanced quotation mark, which would swallow the rows up to the next one.
        reader = csv.reader(
            self._lines(),
            delimiter=self._delimiter,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            strict=True,
        )
        header: list[str] = []
        rows, size = 0, self.path.stat().st_size
        while True:
            line = reader.line_num + 1
            rows += 1
            if rows % ROWS_CHECKED == 0:
                check_rows(self.name, rows, size, self.limits)
            try:
                record = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                if not header or "end of data" in str(error):
                    # The rows behind a mark that is never closed are lost, too: that is more than a row.
                    raise self._badly_quoted(error, line) from None
                yield line, Fault("malformed row", _quoting_rule(error))
                continue
            if record and not header:
                header = [name.strip() for name in record]
                self._check_header(header, line)
                yield line, header
            elif record:
                yield line, self._fault(record, header) or record
        if not header:
            raise InputError(
                f"{self.path}: the file is empty; expected a header line that names the columns, then rows"
            )

    def _badly_quoted(self, error: csv.Error, line: int) -> InputError:
        return InputError(f"{self.path}, line {line}: {_quoting_rule(error)}")

    def _check_header(self, header: list[str], line: int) -> None:
        if wrong := undecodable("".join(header), self.encoding):
            raise InputError(f"{self.path}, line {line}: {wrong}, in the header; name the encoding by --data.encoding")
        if twice := sorted(name for name, count in Counter(header).items() if count > 1):
            raise InputError(f"{self.path}: the header names the column {twice[0]!r} twice; rename one of them")

    def _fault(self, record: list[str], header: list[str]) -> Fault | None:
        if self.yields_faults and (wrong := undecodable("".join(record), self.encoding)):
            return Fault("undecodable row", wrong)
        if len(record) == len(header):
            return None
        hint = ""
        if len(record) > len(header):
            hint = f"; a field that contains a {_DELIMITERS[self._delimiter][0]} must be enclosed in quotation marks"
        return Fault(
            "malformed row", f"expected {counted(len(header), 'field')} as in the header, got {len(record)}{hint}"
        )


def _quoting_rule(error: csv.Error) -> str:
    reason = "a quotation mark is never closed" if "end of data" in str(error) else str(error)
    return f"{reason}; a field that begins with a quotation mark must end with one, and those inside it must be doubled"


def _divides(lines: list[str], delimiter: str) -> bool:
    """Return whether a delimiter divides the first records of a file into equally many fields, at least two."""
    csv.field_size_limit(2**31 - 1)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    lengths: list[int] = []
    # The last record may be cut off within quotation marks; others that are not closed are refused later.
    with suppress(csv.Error):
        for record in csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True):
            lengths += [len(record)] if record else []
    return len(lengths) > 0 and lengths[0] > 1 and len(set(lengths)) == 1


def _all_numbers(values: list[str | None]) -> bool:
    try:
        return len([float(value) for value in values if value is not None and value.strip()]) > 0
    except ValueError:
        return False
