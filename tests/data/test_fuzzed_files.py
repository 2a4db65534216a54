"""Files of any content are read as rows or refused in one line, whatever their format; predictions as teachers, too."""

import gzip
import io
import os
from collections.abc import Callable

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hf_finetune.data.config import Source
from hf_finetune.data.loading import load
from hf_finetune.distillation.teachers.precomputed import read_precomputed
from hf_finetune.errors import InputError

EXAMPLES = int(os.environ.get("HF_FINETUNE_FUZZ_EXAMPLES", "25"))
LINES = ['{"text": "a", "label": "b"}\n', "text,label\n", "a,b\n"]
PIECES = st.sampled_from(
    [*"\t\n\r\x00\ufeff,:'\"{}[] aé1\\", "text", "label", "null", "1e999", "NaN", "true", "\\ud800", *LINES]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


def parquet(**columns) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def workbook(rows: list[list[str]]) -> bytes:
    book, file = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.save(file)
    return file.getvalue()


CSV = b"text,label\n" + b"a,x\nb,y\nc,x\n" * 5
WHOLE = {
    "csv.gz": gzip.compress(CSV),
    "csv.zst": pa.compress(CSV, codec="zstd", asbytes=True),
    "xlsx": workbook([["text", "label"], *[["a", "x"], ["b", "y"], ["c", "x"]] * 5]),
    "parquet": parquet(text=["a", "b", "c"] * 5, label=["x", "y", "x"] * 5),
    "csv": CSV,
    "jsonl": b'{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n' * 5,
}


def rows_or_one_line(use: Callable[[], object]) -> None:
    try:
        use()
    except InputError as error:
        assert "\n" not in str(error)


@settings(max_examples=EXAMPLES, deadline=None)
@given(content=TEXTS, suffix=st.sampled_from(["csv", "tsv", "txt", "json", "jsonl"]))
def test_any_text(tmp_path_factory: pytest.TempPathFactory, content: str, suffix: str) -> None:
    path = tmp_path_factory.mktemp("any") / f"rows.{suffix}"
    path.write_bytes(content.encode())
    rows_or_one_line(lambda: load(Source(str(path)), "text"))


@settings(max_examples=EXAMPLES, deadline=None)
@example(suffix="parquet", place=0.4453125, byte=128, cut=False)  # a column's name that is not UTF-8
@given(suffix=st.sampled_from(sorted(WHOLE)), place=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
def test_any_byte_changed(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, place: float, byte: int, cut: bool
) -> None:
    path, content = tmp_path_factory.mktemp("changed") / f"rows.{suffix}", bytearray(WHOLE[suffix])
    content[int(place * (len(content) - 1))] = byte
    path.write_bytes(content[: int(place * len(content))] if cut else content)
    rows_or_one_line(lambda: load(Source(str(path)), "text"))


PREDICTIONS = parquet(text=["a", "b"], **{"p:x": np.array([0.25, 0.75]), "p:y": np.array([0.75, 0.25])})


@settings(max_examples=EXAMPLES, deadline=None)
@example(place=0.326171875, byte=128, cut=False)  # a column's name that is not UTF-8
@example(place=0.09375, byte=72, cut=False)  # a number beyond float32
@given(place=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
def test_any_byte_of_predictions_changed(
    tmp_path_factory: pytest.TempPathFactory, place: float, byte: int, cut: bool
) -> None:
    path, content = tmp_path_factory.mktemp("teacher") / "predictions.parquet", bytearray(PREDICTIONS)
    content[int(place * (len(content) - 1))] = byte
    path.write_bytes(content[: int(place * len(content))] if cut else content)
    rows_or_one_line(lambda: read_precomputed(str(path), ("x", "y")))
