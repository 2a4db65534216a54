"""Reader of Excel workbooks (.xlsx) by openpyxl, one row at a time."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from hf_finetune.data.image_decoding import are_image_names
from hf_finetune.data.image_paths import beside
from hf_finetune.data.readers.compressed import most_decoded, too_large
from hf_finetune.data.readers.csv_file import ROWS_INSPECTED
from hf_finetune.data.readers.table import DROP, Chunk, Column, DataFile, Fault, batched
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import did_you_mean, listed, one_line, quoted

if TYPE_CHECKING:
    from openpyxl import Workbook
    from openpyxl.worksheet._read_only import ReadOnlyWorksheet

# What Excel itself has; a file that names a later row is not its own.
MOST_ROWS = 1_048_576
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
        for first, batch in batched(records, size):
            faults = {i: record for i, (_, record) in enumerate(batch) if isinstance(record, Fault)}
            rows = [[None] * len(header) if isinstance(record, Fault) else record for _, record in batch]
            values = {}
            for name in columns:
                at, is_text = header.index(name), described[name].kind == "string"
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
        with self._opened() as workbook:
            sheet = workbook[self._sheet_of(workbook.sheetnames)]
            sheet.reset_dimensions()  # which a file may state wrongly
            for line, cells in enumerate(_rows(sheet), 1):
                record = [_plain(cell) for cell in cells]
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
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"{self._place}: the first row names the column {twice[0]!r} twice; rename one of them")
        return names

    def _fitted(self, record: list[Cell], header: list[str], line: int) -> list[Cell] | Fault:
        """Return a row with one cell for each column."""
        if any(cell is not None for cell in record[len(header) :]):
            reason = f"a cell beyond the {len(header)} columns that the first row names; name its column, or remove it"
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
            raise InputError(f"{self.path}: Excel files need openpyxl: pip install 'hf_finetune[excel]'") from None
        self._refuse_declared_size()
        try:
            with _without_warnings():
                workbook = openpyxl.load_workbook(self.path, read_only=True, data_only=True)
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

    def _refuse_declared_size(self) -> None:
        """Refuse a workbook by the sizes that it declares, beyond which `zipfile` decompresses nothing."""
        most = most_decoded(self.path, self.limits)
        try:
            with zipfile.ZipFile(self.path) as archive:
                size = sum(part.file_size for part in archive.infolist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(
                f"{self.path}: not an .xlsx file ({one_line(error)}); save it as .xlsx or .csv, without a password"
            ) from None
        if size > most:
            raise too_large(self.name, most)


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
