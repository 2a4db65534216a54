"""Reader of Excel workbooks (.xlsx) by openpyxl, one row at a time."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from hf_finetune.data.image_decoding import are_image_names
from hf_finetune.data.image_paths import beside
from hf_finetune.data.readers.compressed import most_decoded, too_large
from hf_finetune.data.readers.csv_file import ROWS_INSPECTED
from hf_finetune.data.readers.table import DROP, Chunk, Column, DataFile, Fault, batched
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import counted, did_you_mean, install_command, listed, one_line, quoted

if TYPE_CHECKING:
    from openpyxl import Workbook
    from openpyxl.worksheet._read_only import ReadOnlyWorksheet

# What Excel itself has; a file that names a later row is not its own.
MOST_ROWS = 1_048_576
# Columns of which openpyxl can make names (ZZZ).
MOST_COLUMNS = 18_278
# One row, text or part without rows may have this share of all elements. What openpyxl does for a shared text
# or a row counts as this many elements, and one element stands for this many empty cells before the last of a row.
ELEMENTS_OF_A_PART, COST_OF_SHARED, COST_OF_ROW, EMPTY_CELLS = 30, 10, 6, 4
DEEPEST = 100
# Rows that are parsed at a time.
ROWS_PARSED = 256
Cell = Any


@dataclass(frozen=True)
class ExcelFile(DataFile):
    """A sheet of a workbook, whose first row that is not blank names the columns.

    Formulas have their last value; one that failed (#N/A) is empty. In a column of text, numbers and dates are text.
    """

    sheet: str | None = None
    """Name of the sheet. None: the first one."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the file is read."""
        with self._opened() as workbook:
            names = workbook.sheetnames
        others = [name for name in names if name != self._sheet_of(names)]
        if self.sheet is not None or not others:
            return ()
        return (f"{self.path.name}: the sheet {names[0]!r} is read, not {listed(others)} (--data.sheet)",)

    def columns(self) -> dict[str, Column]:
        """Return the columns in order.

        Raises:
            InputError: see `chunks`.
        """
        return dict(self._columns)

    @cached_property
    def _columns(self) -> dict[str, Column]:
        records = self._records()
        _, header = next(records)
        assert not isinstance(header, Fault), "the header is refused, not dropped"
        inspected = [record for _, record in islice(records, ROWS_INSPECTED)]
        rows = [record for record in inspected if not isinstance(record, Fault)]
        if not inspected:
            raise InputError(f"{self._place}: a header and no rows; expected one row per example below it")
        return {name: _column([row[at] for row in rows]) for at, name in enumerate(header)}

    def chunks(self, columns: Sequence[str], size: int) -> Iterator[Chunk]:
        """Yield rows in order, `size` at a time, without blank ones.

        Raises:
            InputError: openpyxl is missing; the file is damaged or beyond the limits, has no such sheet or no rows, or
                its header lacks a name or repeats one.
        """
        described, records, images = self._columns, self._records(), beside(self.path, self.image_root)
        _, header = next(records)
        assert not isinstance(header, Fault), "the header is refused, not dropped"
        places = {name: at for at, name in enumerate(header)}
        for first, batch in batched(records, size):
            faults = {i: record for i, (_, record) in enumerate(batch) if isinstance(record, Fault)}
            rows = [[None] * len(header) if isinstance(record, Fault) else record for _, record in batch]
            values = {}
            for name in columns:
                at, is_text = places[name], described[name].kind == "string"
                cells = [row[at] for row in rows]
                values[name] = list(map(_as_text, cells)) if is_text else cells
            lines = [line for line, _ in batch]
            yield Chunk(values, len(batch), self.name, first, lines=lines, images=images, faults=faults)

    @property
    def _place(self) -> str:
        return self.name if self.sheet is None else f"{self.path}, sheet {self.sheet!r}"

    def _records(self) -> Iterator[tuple[int, list[Cell] | Fault]]:
        """Yield the header, then the rows, each with its row number in the sheet."""
        header: list[str] = []
        most, decoded = most_decoded(self.path, self.limits), 0
        with self._opened() as workbook:
            sheet = workbook[self._sheet_of(workbook.sheetnames)]
            sheet.reset_dimensions()  # which a file may state wrongly
            for line, cells in enumerate(_rows(sheet), 1):
                record = [_plain(cell) for cell in cells]
                # Many cells may share one long text.
                decoded += sum(len(cell) for cell in cells if isinstance(cell, str))
                if decoded > most:
                    raise too_large(self.name, most)
                if all(cell is None for cell in record):
                    continue
                if header:
                    yield line, self._fitted(record, header, line)
                else:
                    header = self._header(record)
                    yield line, list(header)
        if not header:
            raise InputError(f"{self._place}: the sheet is empty; expected a first row that names the columns")

    def _header(self, record: list[Cell]) -> list[str]:
        names = ["" if cell is None else str(_as_text(cell)).strip() for cell in record]
        while names[-1] == "":
            names.pop()
        if "" in names:
            raise InputError(
                f"{self._place}: column {names.index('') + 1} has no name in the first row; name it, or remove it"
            )
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise InputError(f"{self._place}: the first row names the column {twice[0]!r} twice; rename one of them")
        return names

    def _fitted(self, record: list[Cell], header: list[str], line: int) -> list[Cell] | Fault:
        """Return a row with one cell for each column."""
        if any(cell is not None for cell in record[len(header) :]):
            columns = counted(len(header), "column")
            reason = f"a cell beyond the {columns} that the first row names; name its column, or remove it"
            if self.yields_faults:
                return Fault("malformed row", reason)
            raise InputError(f"{self._place}, row {line} of the sheet: {reason}; {DROP}")
        return (record + [None] * len(header))[: len(header)]

    def _sheet_of(self, names: list[str]) -> str:
        if not names:
            raise InputError(f"{self.path}: the workbook has no sheet of cells; expected one with the rows")
        if self.sheet is None:
            return names[0]
        if self.sheet not in names:
            hint = did_you_mean(self.sheet, names)
            raise InputError(f"--data.sheet {self.sheet}: {self.path} has no such sheet{hint}; it has {quoted(names)}")
        return self.sheet

    @contextmanager
    def _opened(self) -> Iterator[Workbook]:
        try:
            import openpyxl
        except ImportError:
            raise InputError(f"{self.path}: Excel files need openpyxl: {install_command('excel')}") from None
        self._refuse_size()
        try:
            # openpyxl would leave the file open where it fails.
            with self.path.open("rb") as file:
                with _without_warnings():
                    workbook = openpyxl.load_workbook(file, read_only=True, data_only=True)
                # Charts have sheets of their own.
                for each in workbook.chartsheets:
                    workbook.remove(each)
                try:
                    yield workbook
                finally:
                    workbook.close()
        except InputError:
            raise
        except Exception as error:  # parsers raise whatever a damaged file makes them stumble over
            raise InputError(
                f"{self.path}: not a readable .xlsx file ({one_line(error)}); save it again, or as .csv"
            ) from None

    def _refuse_size(self) -> None:
        """Refuse a workbook by the sizes that it declares, beyond which `zipfile` decompresses nothing, and its XML."""
        if self._has_fit:
            return
        most = most_decoded(self.path, self.limits)
        try:
            with zipfile.ZipFile(self.path) as archive:
                parts = archive.infolist()
                if sum(part.file_size for part in parts) > most:
                    raise too_large(self.name, most)
                most = max(self.limits.workbook_elements, self.path.stat().st_size)
                elements = Elements(most)
                most_of_a_part = most // ELEMENTS_OF_A_PART
                if len(parts) > most_of_a_part or not all(elements.fit(archive, part) for part in parts):
                    limits = f"{most:,} XML elements, or {most_of_a_part:,} in a row, a text or its styles"
                    remedy = "save it as .csv, or raise --data.limits.workbook-elements"
                    raise InputError(f"{self.path}: it has more than {limits}; {remedy}")
        except InputError:
            raise
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as e:
            raise InputError(
                f"{self.path}: not an .xlsx file ({one_line(e)}); save it as .xlsx or .csv, without a password"
            ) from None
        self._has_fit.append(True)

    @cached_property
    def _has_fit(self) -> list[bool]:
        """Not empty: the sizes were checked."""
        return []


@dataclass
class Elements:
    """Count the XML elements of a workbook, of which openpyxl makes objects of hundreds of bytes."""

    most: int
    count: int = 0

    def fit(self, archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> bool:
        """Add those of a part; False: there are too many. What is no XML is left to openpyxl."""
        most_of_a_part = self.most // ELEMENTS_OF_A_PART
        depth = since = 0
        last_cell, cost = "", 1

        def begin(name: str, attributes: dict[str, str]) -> None:
            nonlocal depth, since, last_cell, cost
            depth, name = depth + 1, name.rpartition(":")[2]
            if depth == 1:
                cost = COST_OF_SHARED if name == "sst" else 1
            if name in ("row", "si") and depth <= 3:
                since = 0
            elif name == "c":
                last_cell = attributes.get("r", "")
            since, self.count = since + 1, self.count + (COST_OF_ROW if name == "row" else cost)
            if since > most_of_a_part or self.count > self.most or depth > DEEPEST:
                raise _TooManyError

        def end(name: str) -> None:
            nonlocal depth, last_cell
            depth -= 1
            if last_cell and name.rpartition(":")[2] == "row":
                # openpyxl fills up the row to its last cell.
                self.count += _column_of(last_cell) // EMPTY_CELLS
                last_cell = ""

        parser = expat.ParserCreate()
        parser.StartElementHandler, parser.EndElementHandler = begin, end
        try:
            with archive.open(part) as file:
                parser.ParseFile(file)
        except _TooManyError:
            return False
        except expat.ExpatError:
            pass
        return True


class _TooManyError(Exception):
    """There are too many elements."""


def _column_of(cell: str) -> int:
    """Return the number of the column of a cell such as `XFD12`; a large one for none of Excel's."""
    letters = cell.rstrip("0123456789").upper()
    if len(letters) > 3 or not letters.isascii() or not letters.isalpha():
        return MOST_COLUMNS
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Ignore warnings of openpyxl on styles and validations, which do not matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _rows(sheet: ReadOnlyWorksheet) -> Iterator[tuple[Cell, ...]]:
    rows = sheet.iter_rows(max_row=MOST_ROWS, values_only=True)
    while True:
        # Only while it parses: the filters are those of the whole process.
        with _without_warnings():
            part = list(islice(rows, ROWS_PARSED))
        if not part:
            return
        yield from part


def _plain(cell: Cell) -> Cell:
    """Return the value of a cell; None: it is empty, or an error such as #N/A."""
    if isinstance(cell, str):
        return None if not cell.strip() or cell in _ERRORS else cell
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell


_ERRORS = frozenset(("#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A"))


def _as_text(cell: Cell) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    return cell.isoformat() if isinstance(cell, date | time) else str(cell)


def _column(cells: list[Cell]) -> Column:
    types = {type(cell) for cell in cells} - {type(None)}
    if types and types <= {int, float, bool}:
        return Column("number", "numbers")
    if not types:
        return Column("other", "nothing")
    return Column("string", "text", names_images=are_image_names(cells))
