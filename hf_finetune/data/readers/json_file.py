"""Reader of json and jsonl files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hf_finetune.data.image_decoding import are_image_names
from hf_finetune.data.image_paths import beside
from hf_finetune.data.labels import SURROGATE
from hf_finetune.data.readers.compressed import format_of
from hf_finetune.data.readers.csv_file import ROWS_INSPECTED
from hf_finetune.data.readers.json_stream import JsonStream
from hf_finetune.data.readers.table import DROP, Chunk, Column, Fault, TextFile, batched, check_columns, check_rows
from hf_finetune.data.readers.text_file import note_of_mark, read_lines, read_parts, undecodable
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import row_place

Json = Any
Row = dict[str, Json]


@dataclass(frozen=True)
class JsonFile(TextFile):
    """A JSON file: a list of objects, an object of columns, or either under "data"; or one object per line (.jsonl)."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the file is read."""
        return note_of_mark(self.path, self.encoding)

    def columns(self) -> dict[str, Column]:
        """Return the columns in the order of their first appearance.

        Raises:
            InputError: see `chunks`.
        """
        rows = [row for _, row in islice(self._rows(), ROWS_INSPECTED) if not isinstance(row, Fault)]
        # Only the cells that there are: every row may have other keys.
        cells: dict[str, list[Json]] = {}
        for row in rows:
            for name, value in row.items():
                cells.setdefault(name, []).append(value)
            check_columns(self.name, len(cells), self.limits)
        if invalid := next(filter(SURROGATE.search, cells), None):
            raise InputError(f"{self.path}: the key {invalid[:40]!r} holds half a surrogate pair; rename it")
        return {name: _column(values) for name, values in cells.items()}

    def chunks(self, columns: Sequence[str], size: int) -> Iterator[Chunk]:
        """Yield rows in order, `size` at a time, with None for missing keys.

        Raises:
            InputError: a line cannot be decoded or is malformed; or there are no rows.
        """
        images, bytes_of_file = beside(self.path, self.image_root), self.path.stat().st_size
        for first, batch in batched(self._rows(), size):
            check_rows(self.name, first + len(batch), bytes_of_file, self.limits)
            lines = [line for line, _ in batch]
            faults = {i: row for i, (_, row) in enumerate(batch) if isinstance(row, Fault)}
            rows: list[Row] = [{} if isinstance(row, Fault) else row for _, row in batch]
            values = {name: [row.get(name) for row in rows] for name in columns}
            yield Chunk(values, len(rows), self.name, first, lines=lines, objects=rows, images=images, faults=faults)

    def _rows(self) -> Iterator[tuple[int | None, Row | Fault]]:
        """Yield the objects, each with its line number if there is one object per line."""
        document = None if format_of(self.path) == ".jsonl" else self._document()
        number = 0
        if document is None:
            for number, row in self._by_line():
                yield number, self._checked(row, f"line {number}")
        else:
            for number, row in enumerate(document, 1):
                yield None, self._checked(row, row_place(number - 1))
        if not number:
            raise InputError(f"{self.path}: the file holds no rows; expected one object per example")

    def _checked(self, row: Json | Fault, place: str) -> Row | Fault:
        if not isinstance(row, dict | Fault):
            row = Fault("malformed row", f'expected an object like {{"text": ..., "label": ...}}, got {_short(row)}')
        if isinstance(row, Fault) and not self.yields_faults:
            raise InputError(f"{self.path}, {place}: {row.reason}; {DROP}")
        return row

    def _document(self) -> Iterable[Json] | None:
        """Return the rows of one JSON document, or None if there is one document per line, as in many .json files."""
        stream = JsonStream(self.path, read_parts(self.path, self.encoding, self.limits), self.limits)
        if stream.peek() == "":
            return []
        if stream.peek() == "[":
            return stream.items()
        content = stream.value()
        if (more := stream.peek()) and isinstance(content, dict):
            return None
        if more:
            raise stream.malformed("Extra data")
        if isinstance(content, dict) and isinstance(content.get("data"), list | dict):
            content = content["data"]
        if isinstance(content, dict):
            content = self._rows_of_columns(content)
        if not isinstance(content, list):
            raise InputError(f"{self.path}: expected a list of objects, got {_short(content)}")
        return content

    def _by_line(self) -> Iterator[tuple[int, Json | Fault]]:
        strict = not self.yields_faults
        lines = read_lines(self.path, self.encoding, self.limits, strict=strict, remedy=f", or {DROP}")
        for number, line in enumerate(lines, 1):
            if not strict and (wrong := undecodable(line, self.encoding)):
                yield number, Fault("undecodable row", wrong)
            elif not line.isspace():
                try:
                    yield number, json.loads(line.rstrip())
                except json.JSONDecodeError as error:
                    reason = f"not JSON at column {error.colno} ({error.msg}); expected one object per line"
                    yield number, Fault("malformed row", reason)
                except (ValueError, RecursionError) as error:
                    yield number, Fault("malformed row", f"not readable as JSON ({error})")

    def _rows_of_columns(self, columns: dict[str, Json]) -> list[Row]:
        if not all(isinstance(column, list) for column in columns.values()):
            raise InputError(
                f'{self.path}: expected a list of objects, an object of columns (lists), or {{"data": [...]}}'
            )
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            spelled = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise InputError(f"{self.path}: the columns differ in length: {spelled}")
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _short(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _column(values: list[Json]) -> Column:
    types = {type(value) for value in values} - {type(None)}
    if str in types:
        return Column("string", "text", names_images=are_image_names(values))
    if types and types <= {int, float, bool}:
        return Column("number", "numbers")
    if list in types:
        return Column("list", "lists")
    return Column("other", "objects" if types else "nothing")
