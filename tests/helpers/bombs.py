"""Data that make a reader take all time or memory, written into a folder in about a second each."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

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


def _cell(folder: Path, characters: int, rows: int = 50) -> Path:
    return _csv(folder, "text,label", (f"{i} {'x y ' * (characters // 4)},{'ab'[i % 2]}" for i in range(rows)))


def _columns(folder: Path) -> Path:
    names = ",".join(f"c{i}" for i in range(100_000))
    return _csv(folder, f"text,label,{names}", [f"t {i},{'ab'[i % 2]}{',1' * 100_000}" for i in range(20)])


def _gzip(folder: Path) -> Path:
    with gzip.open(folder / "bomb.csv.gz", "wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(b"\0" * 1_000_000)
    return folder / "bomb.csv.gz"


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


def _images(folder: Path, content: bytes, suffix: str) -> Path:
    for i in range(6):
        path = folder / "images" / "ab"[i % 2] / f"{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "images"


def _png(*chunks: tuple[bytes, bytes], size: tuple[int, int] = (64, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG", compress_level=1)
    whole = file.getvalue()
    added = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return whole[:33] + b"".join(added) + whole[33:]


SHEET = "xl/worksheets/sheet1.xml"
BOMBS: dict[str, Bomb] = {
    "20000 nearly equal rows of 600 words": partial(_near_rows, words=600, alphabet="abc"),
    "20000 nearly equal rows of 200 Cyrillic words": partial(_near_rows, words=200, alphabet="бвг"),
    "a cell of 20 MB": partial(_cell, characters=20_000_000, rows=2),
    "50 cells of a million characters": partial(_cell, characters=999_000),
    "100000 columns": _columns,
    "a gzip of 300 MB": _gzip,
    "JSON nested 100000 deep": _nested,
    "JSON of a million keys": _keys,
    "a parquet of 4000 times one text": _parquet,
    "a workbook of a million empty rows": partial(
        _workbook, part=SHEET, old="</sheetData>", new=f"{'<row/>' * 1_000_000}</sheetData>"
    ),
    "a workbook of nested elements": partial(_workbook, part=SHEET, old="</sheetData>", new="<a>" * 1_000_000),
    "a workbook with a row of 200000 cells": partial(
        _workbook, part=SHEET, old="</sheetData>", new=f"<row>{'<c/>' * 200_000}</row></sheetData>"
    ),
    "images with 100000 texts": lambda folder: _images(folder, _png(*[(b"tEXt", b"k\0x")] * 100_000), "png"),
    "images with a text of 300 MB": lambda folder: _images(
        folder, _png((b"zTXt", b"k\0\0" + zlib.compress(bytes(300_000_000), 1))), "png"
    ),
    "images of 100 megapixels": lambda folder: _images(folder, _png(size=(10_000, 10_000)), "png"),
    "images of 1 x 1000000 pixels": lambda folder: _images(folder, _png(size=(1, 1_000_000)), "png"),
}
"""Bombs by name. The seconds and megabytes of `doctor` are bounded for each."""
