"""Readers of csv and json files.

A reader says what columns there are, and reads some of them a few rows at a time; every row can be named as a person
sees it in the file.
"""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from hf_finetune.errors import InputError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")

# Columns of text formats are judged by their first rows.
ROWS_LOOKED_AT = 1000

_NAMED = {",": "comma", "\t": "tab"}
_ENCODING_FLAGS = "--data.encoding {0} (predict, evaluate: --encoding {0})"
_OBJECT = 'an object like {"text": ..., "label": ...}'


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
    """Consecutive rows of a source."""

    columns: dict[str, list]
    size: int
    where: Callable[[int], str]
    """Names the i-th of these rows: file and row."""
    keys: Callable[[int], list[str]] | None = None
    """Of the i-th row, where rows can differ in that."""


@dataclass(frozen=True)
class CsvFile:
    """Comma- or tab-separated rows under a header; quoting as in RFC 4180, or none where a .tsv cannot be read so."""

    path: Path
    encoding: str = "utf-8"

    @property
    def name(self) -> str:
        """The file as the user named it."""
        return str(self.path)

    @functools.cached_property
    def literal(self) -> bool:
        """Whether quotation marks are characters like any other: in a .tsv that makes sense in no other way, like GLUE's."""
        if self.path.suffix.lower() != ".tsv" or self._header_if_read(csv.QUOTE_MINIMAL) is not None:
            return False
        header = self._header_if_read(csv.QUOTE_NONE)
        return header is not None and not any('"' in name for name in header)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how it is read."""
        if not self.literal:
            return ()
        return (f"{self.path.name}: its quotation marks are read as they stand, for they do not enclose whole fields",)

    def columns(self) -> dict[str, Column]:
        """Columns in order.

        Raises:
            InputError: see `chunks`.
        """
        header = self._header()
        first = next(self.chunks(header, ROWS_LOOKED_AT))
        return {c: Column("string", "text", numeric=_all_numbers(first.columns[c])) for c in header}

    def chunks(self, wanted: Sequence[str], size: int) -> Iterator[Chunk]:
        """Rows in order, `size` at a time; blank lines are none.

        Raises:
            InputError: for an undecodable or malformed line, naming it; for no rows.
        """
        records = self._records()
        _, header = next(records)
        picked = [header.index(c) for c in wanted]
        first = 0
        while part := list(islice(records, size)):
            lines = [line for line, _ in part]
            columns = {c: [record[i] for _, record in part] for c, i in zip(wanted, picked, strict=True)}
            yield Chunk(columns, len(part), functools.partial(_csv_row, self.path, first, lines))
            first += len(part)
        if first == 0:
            raise InputError(f"{self.path}: a header and no rows; expected one row per example below it")

    def _header(self) -> list[str]:
        _, header = next(self._records())
        return header

    def _header_if_read(self, quoting: int) -> list[str] | None:
        """The header if the whole file can be read with this `csv.QUOTE_*`."""
        records = self._parsed(quoting)
        try:
            _, header = next(records)
            for _ in records:
                pass
        except InputError:
            return None
        return header

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        return self._parsed(csv.QUOTE_NONE if self.literal else csv.QUOTE_MINIMAL)

    def _parsed(self, quoting: int) -> Iterator[tuple[int, list[str]]]:
        """The header, then the rows, each with the number of the line it starts in."""
        csv.field_size_limit(2**31 - 1)
        delimiter = "\t" if self.path.suffix.lower() == ".tsv" else ","
        # strict, so that an unbalanced quotation mark is refused instead of swallowing the rows up to the next one.
        reader = csv.reader(_lines(self.path, self.encoding), delimiter=delimiter, quoting=quoting, strict=True)
        header: list[str] = []
        row, line = 0, 1
        try:
            for record in reader:
                if not record:
                    pass
                elif not header:
                    header = [name.strip() for name in record]
                    _check_header(self.path, header, delimiter)
                    yield line, header
                elif len(record) != len(header):
                    hint = ""
                    if len(record) > len(header):
                        hint = f"; a field that contains a {_NAMED[delimiter]} must be enclosed in quotation marks"
                    raise InputError(
                        f"{self.path}, row {row + 1} (line {line}): expected {len(header)} fields as in the header, "
                        f"got {len(record)}{hint}"
                    )
                else:
                    row += 1
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


def _csv_row(path: Path, first: int, lines: list[int], i: int) -> str:
    return f"{path}, row {first + i + 1} (line {lines[i]})"


def _check_header(path: Path, header: list[str], delimiter: str) -> None:
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise InputError(f"{path}: the header names the column {twice[0]!r} twice; rename one of them")
    for other, name in ((";", "semicolons"), ("\t", "tabs"), (",", "commas")):
        if len(header) == 1 and other != delimiter and other in header[0]:
            remedy = "name it .tsv" if other == "\t" else "name it .csv" if other == "," else "save it with commas"
            raise InputError(
                f"{path}: the header {header[0]!r} is one column; the file seems to be separated by {name}, "
                f"expected {_NAMED[delimiter]}s: {remedy}"
            )


def _all_numbers(values: list[str]) -> bool:
    try:
        return len([float(v) for v in values if v.strip()]) > 0
    except ValueError:
        return False


def _lines(path: Path, encoding: str) -> Iterator[str]:
    """Lines of a text file with their ends, a byte order mark left out.

    Raises:
        InputError: for an unreadable file, an unknown encoding, or, naming the line, undecodable or NUL bytes.
    """
    try:
        with path.open(encoding=codec_of(encoding), newline="") as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise InputError(
                        f"{path}, line {number}: a NUL byte; remove it, or if the file is UTF-16 say so: "
                        f"{_ENCODING_FLAGS.format('utf-16')}"
                    )
                yield line
    except (OSError, UnicodeError) as error:
        raise unreadable(path, encoding, error) from None


def codec_of(encoding: str) -> str:
    """The codec for an encoding's name; for UTF-8 the one that tolerates a byte order mark.

    Raises:
        InputError: when Python knows no such encoding.
    """
    try:
        "".encode(encoding)
    except LookupError:
        raise InputError(f"--data.encoding {encoding}: no such encoding; try utf-8, cp1252 or utf-16") from None
    return "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding


def unreadable(path: Path, encoding: str, error: OSError | UnicodeError) -> InputError:
    """The error for a text file that cannot be read, naming the line of the first undecodable byte."""
    if isinstance(error, OSError):
        return InputError(f"{path}: cannot be read ({error.strerror})")
    data = path.read_bytes()
    line, found = 1, "it"
    try:
        data.decode(encoding)
    except UnicodeDecodeError as failed:
        line, found = data.count(b"\n", 0, failed.start) + 1, f"byte 0x{data[failed.start]:02x}"
    except UnicodeError:
        pass
    return InputError(
        f"{path}, line {line}: {found} is not {encoding}; name the file's encoding: "
        f"{_ENCODING_FLAGS.format(_likely_encoding(data, encoding))}"
    )


def _likely_encoding(data: bytes, encoding: str) -> str:
    """What to try for bytes that are not of the given encoding."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return {"utf-8-sig": "cp1252", "cp1252": "latin-1"}.get(codec_of(encoding), "utf-8")


@dataclass(frozen=True)
class JsonFile:
    """A json file: a list of objects, an object of columns, or either under "data"; or objects one a line (.jsonl)."""

    path: Path
    encoding: str = "utf-8"

    @property
    def name(self) -> str:
        """The file as the user named it."""
        return str(self.path)

    def columns(self) -> dict[str, Column]:
        """Columns in the order in which the first rows name them.

        Raises:
            InputError: see `chunks`.
        """
        rows = [row for _, row in islice(self._rows(), ROWS_LOOKED_AT)]
        names = dict.fromkeys(key for row in rows for key in row)
        return {name: _json_column([row.get(name) for row in rows]) for name in names}

    def chunks(self, wanted: Sequence[str], size: int) -> Iterator[Chunk]:
        """Rows in order, `size` at a time; a key that a row lacks is None.

        Raises:
            InputError: for an undecodable or malformed line, naming it; for no rows.
        """
        numbered, first = self._rows(), 0
        while part := list(islice(numbered, size)):
            rows = [row for _, row in part]
            columns = {c: [row.get(c) for row in rows] for c in wanted}
            where = functools.partial(_json_row, self.path, first, [line for line, _ in part])
            yield Chunk(columns, len(part), where, functools.partial(_keys, rows))
            first += len(part)

    def _rows(self) -> Iterator[tuple[int | None, dict[str, Any]]]:
        """The objects, each with its line if lines are what separates them."""
        objects = None if self.path.suffix.lower() == ".jsonl" else self._whole()
        rows = self._by_line() if objects is None else ((None, row) for row in objects)
        first = next(rows, None)
        if first is None:
            raise InputError(f"{self.path}: the file holds no rows; expected one object per example")
        yield first
        yield from rows

    def _whole(self) -> list[dict[str, Any]] | None:
        """The objects of one JSON document; None when it is one document a line, as in many files called .json."""
        text = "".join(_lines(self.path, self.encoding))
        if not text.strip():
            return []
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            if error.msg.startswith("Extra data") and text.lstrip().startswith("{"):
                return None
            raise InputError(
                f"{self.path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg})"
            ) from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path}: not readable as JSON ({error})") from None
        return _objects(self.path, content)

    def _by_line(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(_lines(self.path, self.encoding), 1):
            if line.isspace():
                continue
            try:
                row = json.loads(line.rstrip())
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{self.path}, line {number}, column {error.colno}: not JSON ({error.msg}); "
                    "expected one object a line"
                ) from None
            except (ValueError, RecursionError) as error:
                raise InputError(f"{self.path}, line {number}: not readable as JSON ({error})") from None
            if not isinstance(row, dict):
                raise InputError(f"{self.path}, line {number}: expected {_OBJECT}, got {_short(row)}")
            yield number, row


def _objects(path: Path, content: Any) -> list[dict[str, Any]]:
    if isinstance(content, dict) and isinstance(content.get("data"), list | dict):
        content = content["data"]
    if isinstance(content, dict):
        if not all(isinstance(column, list) for column in content.values()):
            raise InputError(f'{path}: expected a list of objects, an object of columns (lists), or {{"data": [...]}}')
        lengths = {name: len(column) for name, column in content.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(
                f"{path}: the columns differ in length: {', '.join(f'{n} {k}' for k, n in lengths.items())}"
            )
        content = [dict(zip(content, values, strict=True)) for values in zip(*content.values(), strict=True)]
    if not isinstance(content, list):
        raise InputError(f"{path}: expected a list of objects, got {_short(content)}")
    for number, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise InputError(f"{path}, row {number}: expected {_OBJECT}, got {_short(row)}")
    return content


def _json_row(path: Path, first: int, lines: list[int | None], i: int) -> str:
    return f"{path}, row {first + i + 1}" + ("" if lines[i] is None else f" (line {lines[i]})")


def _keys(rows: list[dict[str, Any]], i: int) -> list[str]:
    return list(rows[i])


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _json_column(values: list[Any]) -> Column:
    types = {type(v) for v in values} - {type(None)}
    if str in types:
        return Column("string", "text")
    if types and types <= {int, float, bool}:
        return Column("number", "numbers")
    if types & {list}:
        return Column("list", "lists")
    return Column("other", "objects" if types else "nothing")
