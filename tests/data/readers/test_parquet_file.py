"""Parquet files: features of `datasets`, plain types, damage."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_finetune.data.readers.parquet_file import ParquetFile
from hf_finetune.errors import InputError


def test_features_are_honoured(tmp_path: Path) -> None:
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"]), "note": Value("string")})
    rows = {"image": [{"bytes": b"x", "path": None}], "label": [1], "note": ["n"]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    columns = ParquetFile(tmp_path / "a.parquet").columns()
    assert {name: column.kind for name, column in columns.items()} == {
        "image": "image",
        "label": "class",
        "note": "string",
    }
    assert columns["label"].names == ("cat", "dog")
    chunk = next(ParquetFile(tmp_path / "a.parquet").chunks(["image", "label"], 10))
    assert chunk.columns == {"image": [{"bytes": b"x", "path": None}], "label": [1]}
    assert chunk.place(0) == f"{tmp_path}/a.parquet, row 0 counted from 0"


def test_bare_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "picture": pa.array([{"bytes": b"x", "path": "p"}]),
            "binary": pa.array([b"x"]),
            "text": pa.array(["t"], pa.large_string()),
            "category": pa.array(["t"]).dictionary_encode(),
            "float": pa.array([1.0]),
            "flag": pa.array([True]),
            "many": pa.array([[1]]),
            "when": pa.array([1], pa.timestamp("ms")),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    columns = ParquetFile(tmp_path / "a.parquet").columns()
    assert [(c.kind, c.type) for c in columns.values()] == [
        ("image", "images"),
        ("image", "binary data"),
        ("string", "text"),
        ("string", "text"),
        ("number", "double"),
        ("number", "bool"),
        ("list", "lists"),
        ("other", "timestamp[ms]"),
    ]


def test_metadata_that_datasets_does_not_read_is_ignored(tmp_path: Path) -> None:
    table = pa.table({"text": ["a"]}).replace_schema_metadata({"huggingface": '{"info": {"features": {"text": 3}}}'})
    pq.write_table(table, tmp_path / "a.parquet")
    assert ParquetFile(tmp_path / "a.parquet").columns()["text"].kind == "string"


def test_rows_are_counted_over_chunks(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": list("abcde")}), tmp_path / "a.parquet", row_group_size=2)
    chunks = list(ParquetFile(tmp_path / "a.parquet").chunks(["text"], 3))
    assert [t for c in chunks for t in c.columns["text"]] == list("abcde")
    assert chunks[-1].place(chunks[-1].size - 1).endswith("a.parquet, row 4 counted from 0")


def test_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 this is not parquet PAR1")
    with pytest.raises(InputError, match=r"a\.parquet: not a readable parquet file \(.*\); write it again"):
        ParquetFile(path).columns()
    pq.write_table(pa.table({"text": ["a" * 50] * 5000}), path, compression="none", use_dictionary=False)
    damaged = bytearray(path.read_bytes())
    damaged[:200] = b"\xff" * 200
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"a\.parquet: not a readable parquet file"):
        list(ParquetFile(path).chunks(["text"], 100))
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    with pytest.raises(InputError, match=r"a\.parquet: the file holds no rows"):
        list(ParquetFile(path).chunks(["text"], 100))
    pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), path)
    with pytest.raises(InputError, match=r"two columns are called 'text'; rename one of them"):
        ParquetFile(path).columns()
