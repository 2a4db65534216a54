"""Small data files, and what loading them says."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features
from helpers.loading import load
from PIL import Image as PillowImage

from hf_finetune.data.loading import Splits
from hf_finetune.errors import InputError


def csv_file(path: Path, rows: list[tuple], header: tuple[str, ...] = ("text", "label")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def jsonl_file(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def parquet_file(path: Path, features: Features | None = None, **columns: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if features is not None:
        Dataset.from_dict(columns, features=features).to_parquet(path)
    else:
        pq.write_table(pa.table(columns), path)
    return path


def texts(count: int, classes: tuple[str, ...] = ("no", "yes"), start: int = 0) -> list[tuple[str, str]]:
    return [(f"text {i}", classes[i % len(classes)]) for i in range(start, start + count)]


def png(value: int) -> bytes:
    file = io.BytesIO()
    PillowImage.new("L", (4, 4), value).save(file, "PNG")
    return file.getvalue()


def error_of(path: Path | str, kind: str = "text", **options) -> str:
    with pytest.raises(InputError) as caught:
        load(path, kind, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def noted(splits: Splits, words: str) -> bool:
    return any(words in note for note in splits.notes)
