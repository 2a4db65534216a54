"""Files of any content are read as rows or refused in one line, whatever their format; predictions as teachers, too."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Value
from helpers.fuzz import DAMAGES, EXTREME, JSON, Damage, fuzzed, paths, replaced, result_or_one_line, without
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from hf_finetune.data.config import Kind, Source
from hf_finetune.data.image_decoding import decode
from hf_finetune.data.loading import load
from hf_finetune.distillation.teachers.precomputed import read_precomputed

LINES = ['{"text": "a", "label": "b"}\n', "text,label\n", "a,b\n"]
PIECES = st.sampled_from(
    [*"\t\n\r\x00\ufeff,:'\"{}[] aé1\\", "text", "label", "null", "1e999", "NaN", "true", "\\ud800", *LINES]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)
ROWS = {"text": ["a", "b", "c"] * 5, "label": ["x", "y", "x"] * 5}
RECORDS = [{"text": text, "label": label} for text, label in zip(*ROWS.values(), strict=True)]
CLASSES = Features({"text": Value("string"), "label": ClassLabel(names=["x", "y"])})


def parquet(metadata: dict[bytes, bytes] | None = None, **columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), file)
    return file.getvalue()


def workbook(rows: list[list[str]]) -> bytes:
    book, file = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.save(file)
    return file.getvalue()


CSV = b"text,label\n" + b"a,x\nb,y\nc,x\n" * 5
WHOLE = {
    "rows.csv.gz": gzip.compress(CSV),
    "rows.csv.zst": pa.compress(CSV, codec="zstd", asbytes=True),
    "rows.xlsx": workbook([["text", "label"], *[["a", "x"], ["b", "y"], ["c", "x"]] * 5]),
    "rows.parquet": parquet(**ROWS),
    "classes.parquet": parquet(CLASSES.arrow_schema.metadata, text=ROWS["text"], label=[0, 1, 0] * 5),
    "rows.csv": CSV,
    "rows.tsv": b"text\tlabel\n" + b'a\tx\n"b"\ty\nc\tx\n' * 5,
    "rows.jsonl": b'{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n' * 5,
    "rows.json": json.dumps({"data": RECORDS}).encode(),
    "columns.json": json.dumps(ROWS).encode(),
}


def read(path: Path, kind: Kind = "text") -> list[Any]:
    """Load labeled rows, and decode their images."""
    splits = load(Source(str(path)), kind)
    return [decode(row["image"]) if kind == "image" else row["text"] for row in splits.train]


@fuzzed(25)
@given(content=TEXTS, suffix=st.sampled_from(["csv", "tsv", "txt", "json", "jsonl"]))
def test_any_text(tmp_path_factory: pytest.TempPathFactory, content: str, suffix: str) -> None:
    path = tmp_path_factory.mktemp("any") / f"rows.{suffix}"
    path.write_bytes(content.encode())
    result_or_one_line(lambda: read(path))


@fuzzed(60)
@example(name="rows.parquet", damage=Damage(0.4453125, 128))  # a column's name that is not UTF-8
@given(name=st.sampled_from(sorted(WHOLE)), damage=DAMAGES)
def test_any_byte_changed(tmp_path_factory: pytest.TempPathFactory, name: str, damage: Damage) -> None:
    path = tmp_path_factory.mktemp("changed") / name
    path.write_bytes(damage(WHOLE[name]))
    result_or_one_line(lambda: read(path))


@fuzzed(25)
@given(
    path=st.sampled_from(paths(RECORDS[:9])), value=JSON | EXTREME, layout=st.sampled_from(["list", "data", "lines"])
)
def test_any_value_in_json(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[Any, ...], value: Any, layout: str
) -> None:
    records, lines = replaced(RECORDS[:9], path, value), layout == "lines"
    file = tmp_path_factory.mktemp("json") / ("rows.jsonl" if lines else "rows.json")
    rows = records if isinstance(records, list) else [records]
    file.write_text(
        "\n".join(map(json.dumps, rows)) if lines else json.dumps({"data": records} if layout == "data" else records)
    )
    result_or_one_line(lambda: read(file))


COLUMNS: list[Callable[[], pa.Array]] = [
    *(
        lambda kind=kind: pa.array([1, 0, 1] * 5).cast(kind)
        for kind in (pa.int8(), pa.uint64(), pa.float32(), pa.bool_())
    ),
    lambda: pa.array([0.5, float("nan"), float("inf")] * 5),
    lambda: pa.array(["a", "b", None] * 5),
    lambda: pa.array(["a", "", " "] * 5, pa.large_string()),
    lambda: pa.array(["a", "b", "c"] * 5, pa.string_view()),
    lambda: pa.array(["a", "b", "a"] * 5).dictionary_encode(),
    lambda: pa.array([1, 0, 1] * 5).dictionary_encode(),
    lambda: pa.array([b"a", b"\xff", b""] * 5),
    lambda: pa.array([["a"], [], None] * 5),
    lambda: pa.array([{"a": 1}, {"a": 2}, None] * 5),
    lambda: pa.array([{"bytes": b"a", "path": None}] * 15),
    lambda: pa.array([None] * 15),
    lambda: pa.array([0, 1, 2] * 5).cast(pa.timestamp("s")),
    lambda: pa.array([0, 1, 2] * 5).cast(pa.decimal128(38, 2)),
    lambda: pa.array([0, 1, 2] * 5, pa.duration("s")),
    lambda: pa.array([[("a", 1)], [], None] * 5, pa.map_(pa.string(), pa.int64())),
    lambda: pa.array([2**63, 0, 1] * 5, pa.uint64()),
    lambda: pa.array([-1, -1, 0] * 5),
]
"""Columns of every type of Arrow that parquet has."""


@fuzzed(40)
@given(text=st.sampled_from(COLUMNS), label=st.sampled_from(COLUMNS), image=st.booleans())
def test_columns_of_any_type(
    tmp_path_factory: pytest.TempPathFactory,
    text: Callable[[], pa.Array],
    label: Callable[[], pa.Array],
    image: bool,
) -> None:
    path = tmp_path_factory.mktemp("types") / "rows.parquet"
    path.write_bytes(parquet(**{"image" if image else "text": text(), "label": label()}))
    result_or_one_line(lambda: read(path, "image" if image else "text"))


FEATURES = json.loads(CLASSES.arrow_schema.metadata[b"huggingface"])


@fuzzed(25)
@given(path=st.sampled_from(paths(FEATURES)), value=JSON | EXTREME, is_dropped=st.booleans())
def test_any_features_of_a_parquet_file(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[Any, ...], value: Any, is_dropped: bool
) -> None:
    features = without(FEATURES, path) if is_dropped and path else replaced(FEATURES, path, value)
    file = tmp_path_factory.mktemp("features") / "rows.parquet"
    metadata = {b"huggingface": json.dumps(features).encode()}
    file.write_bytes(parquet(metadata, text=ROWS["text"], label=[0, 1, 0] * 5))
    result_or_one_line(lambda: read(file))


def encoded(kind: str, mode: str, **options: Any) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(file, kind, **options)
    return file.getvalue()


EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010E] = 6, "a description"
IMAGES = {
    "jpg": encoded("JPEG", "RGB", exif=EXIF),
    "progressive.jpg": encoded("JPEG", "L", progressive=True),
    "png": encoded("PNG", "RGBA", exif=EXIF),
    "palette.png": encoded("PNG", "P", transparency=3),
    "gray.png": encoded("PNG", "I;16"),
    "apng": encoded("PNG", "RGB", save_all=True, append_images=[Image.new("RGB", (8, 8))]),
    "gif": encoded("GIF", "P"),
    "bmp": encoded("BMP", "RGB"),
    "webp": encoded("WEBP", "RGB", exif=EXIF),
    "tif": encoded("TIFF", "RGB", compression="tiff_lzw", exif=EXIF),
    "float.tif": encoded("TIFF", "F"),
    "ppm": encoded("PPM", "RGB"),
    "jp2": encoded("JPEG2000", "RGB"),
    "avif": encoded("AVIF", "RGB"),
}


@fuzzed(60)
@given(name=st.sampled_from(sorted(IMAGES)), damages=st.lists(DAMAGES, min_size=1, max_size=3), in_table=st.booleans())
def test_any_byte_of_an_image_changed(
    tmp_path_factory: pytest.TempPathFactory, name: str, damages: list[Damage], in_table: bool
) -> None:
    folder, content = tmp_path_factory.mktemp("images"), IMAGES[name]
    for damage in damages:
        content = damage(content)
    images = [IMAGES["png"]] * 7 + [content]
    if in_table:
        structs = [{"bytes": image, "path": None} for image in images]
        (folder / "rows.parquet").write_bytes(parquet(image=structs, label=["x", "y"] * 4))
    for i, image in enumerate(images if not in_table else []):
        file = folder / "xy"[i % 2] / f"{i}.{'png' if i < 7 else name}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(image)
    result_or_one_line(lambda: read(folder / "rows.parquet" if in_table else folder, "image"))


@fuzzed(25)
@given(texts=st.lists(st.binary(max_size=8) | TEXTS.map(str.encode), min_size=2, max_size=6), name=st.text(max_size=4))
def test_any_content_of_class_folders(tmp_path_factory: pytest.TempPathFactory, texts: list[bytes], name: str) -> None:
    folder = tmp_path_factory.mktemp("classes")
    for i, text in enumerate(texts):
        file = folder / f"{'xy'[i % 2]}{name.replace('/', '').replace(chr(0), '')}" / f"{i}.txt"
        try:
            file.parent.mkdir(exist_ok=True)
        except UnicodeEncodeError:  # no name that a file system can have
            return
        file.write_bytes(text)
    result_or_one_line(lambda: read(folder))


PREDICTIONS = parquet(text=["a", "b"], **{"p:x": np.array([0.25, 0.75]), "p:y": np.array([0.75, 0.25])})


@fuzzed(25)
@example(damage=Damage(0.326171875, 128))  # a column's name that is not UTF-8
@example(damage=Damage(0.09375, 72))  # a number beyond float32
@given(damage=DAMAGES)
def test_any_byte_of_predictions_changed(tmp_path_factory: pytest.TempPathFactory, damage: Damage) -> None:
    path = tmp_path_factory.mktemp("teacher") / "predictions.parquet"
    path.write_bytes(damage(PREDICTIONS))
    result_or_one_line(lambda: read_precomputed(str(path), ("x", "y")))


@fuzzed(25)
@given(column=st.sampled_from(["text", "digest", "p:x", "logit:x"]), values=st.sampled_from(COLUMNS))
def test_predictions_of_any_type(
    tmp_path_factory: pytest.TempPathFactory, column: str, values: Callable[[], pa.Array]
) -> None:
    prefix = "logit" if column == "logit:x" else "p"
    columns = {"text": [f"{i}" for i in range(15)], f"{prefix}:x": [0.25] * 15, f"{prefix}:y": [0.75] * 15}
    path = tmp_path_factory.mktemp("teacher") / "predictions.parquet"
    path.write_bytes(parquet(**columns | {column: values()}))
    result_or_one_line(lambda: read_precomputed(str(path), ("x", "y")))


def arrays() -> tuple[bytes, dict[str, Any]]:
    """An .npy file of logits and what stands beside it."""
    file = io.BytesIO()
    np.save(file, np.array([[0.5, -0.5], [1.0, 2.0]], np.float32))
    return file.getvalue(), {"labels": ["x", "y"], "digests": ["00" * 32, "ff" * 32]}


@fuzzed(40)
@example(damage=Damage(69 / 143, ord("(")), of_json=False)  # numpy's header does not end
@given(damage=DAMAGES, of_json=st.booleans())
def test_any_byte_of_an_array_changed(tmp_path_factory: pytest.TempPathFactory, damage: Damage, of_json: bool) -> None:
    path, (logits, about) = tmp_path_factory.mktemp("teacher") / "logits.npy", arrays()
    text = json.dumps(about).encode()
    path.write_bytes(logits if of_json else damage(logits))
    path.with_suffix(".json").write_bytes(damage(text) if of_json else text)
    result_or_one_line(lambda: read_precomputed(str(path), ("x", "y")))


@fuzzed(25)
@given(path=st.sampled_from(paths(arrays()[1])), value=JSON | EXTREME)
def test_any_labels_of_an_array(tmp_path_factory: pytest.TempPathFactory, path: tuple[Any, ...], value: Any) -> None:
    file, (logits, about) = tmp_path_factory.mktemp("teacher") / "logits.npy", arrays()
    file.write_bytes(logits)
    file.with_suffix(".json").write_text(json.dumps(replaced(about, path, value)))
    result_or_one_line(lambda: read_precomputed(str(file), ("x", "y")))
