"""Tables that make a reader take all time or memory, each written into a folder."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Bomb = Callable[[Path], Path]


def _csv(folder: Path, header: str, lines: Iterable[str]) -> Path:
    path = folder / "bomb.csv"
    path.write_text("\n".join([header, *lines]))
    return path


def _near_rows(folder: Path, words: int, alphabet: str) -> Path:
    """Write 20,000 rows that differ in one word."""
    base = [f"{random.Random(i).choice(alphabet)}{i % 97}" for i in range(words)]
    end = " ".join(base[1:])
    return _csv(folder, "text,label", (f"x{i} {end},{'ab'[i % 2]}" for i in range(20_000)))


def _cell(folder: Path, characters: int, rows: int = 50, piece: str = "x y ") -> Path:
    text = piece * (characters // len(piece))
    return _csv(folder, "text,label", (f"{i} {text},{'ab'[i % 2]}" for i in range(rows)))


def _columns(folder: Path) -> Path:
    names = ",".join(f"c{i}" for i in range(100_000))
    return _csv(folder, f"text,label,{names}", [f"t {i},{'ab'[i % 2]}{',1' * 100_000}" for i in range(20)])


def _compressed(folder: Path, name: str, codec: str) -> Path:
    """Write 300 MB of line feeds."""
    path = folder / name
    with pa.CompressedOutputStream(str(path), codec) as file:
        for _ in range(300):
            file.write(b"\n" * 1_000_000)
    return path


def _tiny_rows(folder: Path, name: str, row: bytes, first: bytes = b"") -> Path:
    """Write a gzip of 50 MB of rows of a few bytes."""
    path = folder / name
    with pa.CompressedOutputStream(str(path), "gzip") as file:
        file.write(first)
        for _ in range(50):
            file.write(row * (1_000_000 // len(row)))
    return path


def _run_length_parquet(folder: Path, rows: int = 10_000_000) -> Path:
    """Write rows whose columns are two runs each."""
    numbers = (np.arange(rows) > rows // 2).astype(np.int32)
    columns = {name: pa.DictionaryArray.from_arrays(pa.array(numbers), ["a", "b"]) for name in ("text", "label")}
    pq.write_table(pa.table(columns), folder / "bomb.parquet", compression="zstd", row_group_size=rows)
    return folder / "bomb.parquet"


def _empty_objects(folder: Path) -> Path:
    path = folder / "bomb.jsonl"
    path.write_text(json.dumps({"text": "a", "label": "b"}) + "\n{}" * 3_000_000)
    return path


def _long_rows(folder: Path) -> Path:
    """Write rows of 90,000 keys, none of which is that of a column."""
    other = json.dumps({f"texts{i}": 1 for i in range(90_000)})
    path = folder / "bomb.jsonl"
    path.write_text("\n".join([json.dumps({"text": "a", "label": "b"}), *[other] * 30]))
    return path


def _one_line(folder: Path, begin: str, middle: str, end: str) -> Path:
    """Write JSON of 300 MB."""
    path = folder / "bomb.json"
    with path.open("w") as file:
        file.write(begin)
        for _ in range(300):
            file.write(middle * (1_000_000 // len(middle)))
        file.write(end)
    return path


def _nested(folder: Path) -> Path:
    path = folder / "bomb.jsonl"
    path.write_text(json.dumps({"text": "a", "label": "b"}) + '\n{"text": ' + "[" * 100_000)
    return path


def _keys(folder: Path) -> Path:
    path = folder / "bomb.jsonl"
    path.write_text(json.dumps({"text": "a", "label": "b"} | {f"k{i}": 1 for i in range(1_000_000)}))
    return path


def _parquet(folder: Path) -> Path:
    """Write 4,000 rows that share one text of a dictionary."""
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4_000, np.int32)), ["x y " * 225_000])
    table = pa.table({"text": texts, "label": ["a", "b"] * 2_000})
    pq.write_table(table, folder / "bomb.parquet", compression="zstd")
    return folder / "bomb.parquet"


def _nested_parquet(folder: Path, column: str) -> Path:
    """Write a row whose list of lists holds three million structs."""
    inner = pa.StructArray.from_arrays([pa.array(np.zeros(3_000_000, np.int8)).cast(pa.string())], ["a"])
    structs = pa.ListArray.from_arrays(pa.array(np.arange(0, 3_000_001, 3, np.int32)), inner)
    nested = pa.ListArray.from_arrays(pa.array(np.array([0, *[1_000_000] * 100], np.int32)), structs)
    plain = {"text": [f"some text {i}" for i in range(100)], "label": ["a", "b"] * 50}
    pq.write_table(pa.table(plain | {column: nested}), folder / "bomb.parquet", compression="zstd")
    return folder / "bomb.parquet"


def _workbook(folder: Path, part: str, old: str, new: str) -> Path:
    import openpyxl

    book, path, content = openpyxl.Workbook(), folder / "bomb.xlsx", io.BytesIO()
    for row in [["text", "label"], *[[f"some text {i}", "ab"[i % 2]] for i in range(20)]]:
        book.active.append(row)
    book.save(content)
    with zipfile.ZipFile(content) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in whole.namelist():
            text = whole.read(name).decode()
            archive.writestr(name, text.replace(old, new) if name == part else text)
    return path


SHEET = "xl/worksheets/sheet1.xml"
TABLE_BOMBS: dict[str, Bomb] = {
    "20000 nearly equal rows of 600 words": partial(_near_rows, words=600, alphabet="abc"),
    "20000 nearly equal rows of 200 Cyrillic words": partial(_near_rows, words=200, alphabet="бвг"),
    "20000 nearly equal rows of 600 Cyrillic words": partial(_near_rows, words=600, alphabet="бвг"),
    "20000 nearly equal rows of 600 Chinese words": partial(_near_rows, words=600, alphabet="中文字"),
    "a cell of 20 MB": partial(_cell, characters=20_000_000, rows=2),
    "50 cells of a million characters": partial(_cell, characters=999_000),
    "100000 columns": _columns,
    "50 cells of a million Chinese letters": partial(_cell, characters=999_000, piece="中文字母"),
    "a gzip of 300 MB": partial(_compressed, name="bomb.csv.gz", codec="gzip"),
    "a zstd of 300 MB": partial(_compressed, name="bomb.jsonl.zst", codec="zstd"),
    "a gzip of CSV rows of 4 bytes": partial(_tiny_rows, name="bomb.csv.gz", row=b"a,b\n", first=b"text,label\n"),
    "a gzip of TSV rows of 4 bytes": partial(_tiny_rows, name="bomb.tsv.gz", row=b"a\tb\n", first=b"text\tlabel\n"),
    "a gzip of JSON rows of 3 bytes": partial(_tiny_rows, name="bomb.jsonl.gz", row=b"{}\n"),
    "a gzip of a JSON list of empty objects": partial(_tiny_rows, name="bomb.json.gz", row=b"{},", first=b"["),
    "a gzip of carriage returns": partial(_tiny_rows, name="bomb.csv.gz", row=b"\r", first=b"text,label\n"),
    "a gzip of blanks and line feeds": partial(_tiny_rows, name="bomb.jsonl.gz", row=b" \n"),
    "a parquet of two runs of ten million rows": _run_length_parquet,
    "3 million empty objects": _empty_objects,
    "JSON rows of 90000 other keys": _long_rows,
    "JSON nested 100000 deep": _nested,
    "JSON of a million keys": _keys,
    "JSON of a text of 300 MB": partial(_one_line, begin='[{"text": "', middle="x", end='", "label": "a"}]'),
    "JSON of 100 million empty lists": partial(_one_line, begin="[", middle="[],", end="1]"),
    "a parquet of 4000 times one text": _parquet,
    "a parquet whose texts are lists of lists of structs": partial(_nested_parquet, column="text"),
    "a parquet with another column of lists of lists of structs": partial(_nested_parquet, column="other"),
    "a workbook of a million empty rows": partial(
        _workbook, part=SHEET, old="</sheetData>", new=f"{'<row/>' * 1_000_000}</sheetData>"
    ),
    "a workbook of 490000 empty rows": partial(
        _workbook, part=SHEET, old="</sheetData>", new=f"{'<row/>' * 490_000}</sheetData>"
    ),
    "a workbook of nested elements": partial(_workbook, part=SHEET, old="</sheetData>", new="<a>" * 1_000_000),
    "a workbook with a row of 200000 cells": partial(
        _workbook, part=SHEET, old="</sheetData>", new=f"<row>{'<c/>' * 200_000}</row></sheetData>"
    ),
}
"""Bombs by name."""
