"""Data that make a reader take all time or memory, written into a folder in about a second each."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

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


def _images(folder: Path, encode: Callable[[tuple[int, int, int]], bytes], suffix: str) -> Path:
    """Write six images of two classes, each of another color."""
    for i in range(6):
        path = folder / "images" / "ab"[i % 2] / f"{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode((9 * i, 40, 60)))
    return folder / "images"


def solid_images(folder: Path, kind: str = "PNG", megapixels: float = 0.001, **options: Any) -> Path:
    """Write six images of one color, of two classes."""
    side = int(1000 * megapixels**0.5)

    def encode(color: tuple[int, int, int]) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (side, side), color).save(file, kind, **options)
        return file.getvalue()

    return _images(folder, encode, kind.lower())


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _frame(kind: str, color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def _gif(color: tuple[int, int, int], frames: int = 10_000) -> bytes:
    whole = _frame("GIF", color)
    # The header and the table of colors, then a frame, then the end.
    start = 13 + 3 * 2 ** ((whole[10] & 7) + 1)
    return whole[:start] + whole[start:-1] * frames + whole[-1:]


def _apng(color: tuple[int, int, int], frames: int = 10_000) -> bytes:
    whole = _frame("PNG", color)
    length = int.from_bytes(whole[33:37], "big")
    pixels, parts = whole[41 : 41 + length], [whole[:33], _chunk(b"acTL", struct.pack(">II", frames, 0))]
    for number in range(frames):
        control = struct.pack(">IIIIIHHBB", max(0, 2 * number - 1), 64, 64, 0, 0, 1, 10, 0, 0)
        frame = _chunk(b"fdAT", struct.pack(">I", 2 * number) + pixels) if number else _chunk(b"IDAT", pixels)
        parts += [_chunk(b"fcTL", control), frame]
    return b"".join([*parts, _chunk(b"IEND", b"")])


def _animated_webp(color: tuple[int, int, int], frames: int = 10_000) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)

    size = (63).to_bytes(3, "little") * 2
    frame = chunk(b"ANMF", bytes(6) + size + (10).to_bytes(3, "little") + b"\0" + _frame("WEBP", color)[12:])
    parts = [chunk(b"VP8X", bytes([2, 0, 0, 0]) + size), chunk(b"ANIM", bytes(6)), frame * frames]
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, parts))) + b"WEBP" + b"".join(parts)


@cache
def _zeros() -> bytes:
    return zlib.compress(bytes(300_000_000), 1)


def _png(color: tuple[int, int, int], *chunks: tuple[bytes, bytes], size: tuple[int, int] = (64, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG", compress_level=1)
    whole = file.getvalue()
    return whole[:33] + b"".join(_chunk(*each) for each in chunks) + whole[33:]


SHEET = "xl/worksheets/sheet1.xml"
FEW_ROWS: set[str] = {
    *(f"{name} of 49 megapixels" for name in ("PNG", "JPEG", "progressive JPEG", "TIFF")),
    *("WebP of 24 megapixels", "images with 100000 texts", "50 cells of a million Chinese letters"),
}
"""Bombs of so few rows that training on them is no long work by itself."""
BOMBS: dict[str, Bomb] = {
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
    "images with 100000 texts": partial(
        _images, encode=lambda color: _png(color, *[(b"tEXt", b"k\0x")] * 100_000), suffix="png"
    ),
    "images with a text of 300 MB": partial(
        _images,
        encode=lambda color: _png(color, (b"zTXt", b"k\0\0" + _zeros())),
        suffix="png",
    ),
    "PNG of 49 megapixels": partial(solid_images, kind="PNG", megapixels=49, compress_level=1),
    "JPEG of 49 megapixels": partial(solid_images, kind="JPEG", megapixels=49),
    "progressive JPEG of 49 megapixels": partial(solid_images, kind="JPEG", megapixels=49, progressive=True),
    "TIFF of 49 megapixels": partial(solid_images, kind="TIFF", megapixels=49, compression="tiff_adobe_deflate"),
    "WebP of 24 megapixels": partial(solid_images, kind="WEBP", megapixels=24, lossless=True, method=0, quality=0),
    "GIF of 10000 frames": partial(_images, encode=_gif, suffix="gif"),
    "PNG of 10000 frames": partial(_images, encode=_apng, suffix="png"),
    "WebP of 10000 frames": partial(_images, encode=_animated_webp, suffix="webp"),
    "images of 100 megapixels": partial(_images, encode=partial(_png, size=(10_000, 10_000)), suffix="png"),
    "images of 1 x 1000000 pixels": partial(_images, encode=partial(_png, size=(1, 1_000_000)), suffix="png"),
}
"""Bombs by name. The seconds and megabytes of `doctor` are bounded for each."""
