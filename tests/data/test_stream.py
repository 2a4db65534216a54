"""`stream`: rows to predict or evaluate, in batches."""

import io
import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Value
from helpers.loading import stream
from PIL import Image

from hf_finetune.errors import InputError

KNOWN = {"labels": ("no", "yes")}


def csv_file(path: Path, rows: list[str], header: str = "text,label") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def texts(path: Path, **options) -> list[str]:
    return [t for rows in stream(str(path), **options) for t in rows["text"]]


def error_of(path: Path, kind: str = "text", **options) -> str:
    with pytest.raises(InputError) as caught:
        list(stream(str(path), kind=kind, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_order_parts_and_rows(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", [f"t{i},{('no', 'yes')[i % 2]}" for i in range(10)])
    parts = list(stream(str(path), batch_rows=4, **KNOWN))
    assert [len(p) for p in parts] == [4, 4, 2]
    assert [r for p in parts for r in p["row"]] == list(range(10))
    assert [t for p in parts for t in p["text"]] == [f"t{i}" for i in range(10)]
    assert [y for p in parts for y in p["label"]] == [0, 1] * 5


def test_labels_are_the_classifiers(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", ["a,yes", "b,yes"])
    assert [list(p["label"]) for p in stream(str(path), labels=("yes", "no"))] == [[0, 0]]


def test_the_file_is_not_read_ahead(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([json.dumps({"text": f"t{i}"}) for i in range(5000)] + ["broken"]))
    parts = stream(str(path), batch_rows=100)
    assert len(next(parts)) == 100
    with pytest.raises(InputError, match=r"a\.jsonl, line 5001: not JSON at column 1"):
        list(parts)


def test_without_labels_they_are_not_looked_at(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", ["a,unheard of", "b,"])
    parts = list(stream(str(path)))
    assert parts[0].column_names == ["text", "row"]
    assert texts(csv_file(tmp_path / "b.csv", ["a", "b"], "sentence")) == ["a", "b"]


def test_rows_without_a_gold_label_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    table = pa.table({"text": list("abcd"), "label": [0, -1, 1, -1]}).replace_schema_metadata(
        features.arrow_schema.metadata
    )
    pq.write_table(table, tmp_path / "gold.parquet")
    (rows,) = stream(str(tmp_path / "gold.parquet"), **KNOWN)
    assert rows["text"][:] == ["a", "c"] and rows["row"][:] == [0, 2]
    assert "2 of 4 rows have the label -1, which means no gold label" in caplog.text


def test_labels_that_are_needed(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", ["a,yes", "b,maybe"])
    assert error_of(path, **KNOWN) == (
        f"{path}, row 1 (line 3), column 'label': the label 'maybe' is not among the 2 classes of the classifier "
        "(no, yes); correct or remove it, or --drop-bad-rows leaves such rows out"
    )
    path = csv_file(tmp_path / "b.csv", ["a,yes", "b,"])
    assert (
        error_of(path, **KNOWN)
        == f"{path}, row 1 (line 3), column 'label': the label is empty; correct or remove it, or --drop-bad-rows leaves such rows out"
    )
    path = csv_file(tmp_path / "c.csv", ["a,-1", "b,-1"])
    assert error_of(path, **KNOWN) == (
        f"{path}: every label in column 'label' is empty or -1; only predict can use these rows"
    )
    path = csv_file(tmp_path / "d.csv", ["a", "b"], "text")
    assert (
        error_of(path, **KNOWN)
        == f"{path}: no column holds the class of each row; there is 'text'; name it by --label COL"
    )


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", [*["a,x"] * 5, " ,x", ",x"])
    assert error_of(path, batch_rows=2) == (
        f"{path}, row 5 (line 7), column 'text': the text is empty (1 other row has a bad text too); "
        "correct or remove them, or --drop-bad-rows leaves such rows out"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train", "dev", "test", "extra"):
        csv_file(tmp_path / f"{name}.csv", [f"{name} text,yes"])
    return tmp_path


def test_the_split_is_chosen_aloud(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        assert texts(folder) == texts(folder, **KNOWN) == ["test text"]
    assert f"{folder}: reading the split test" in caplog.text
    assert texts(folder, split="train") == ["train text"]
    assert texts(folder, split="extra") == ["extra text"]
    assert error_of(folder, split="validation") == (
        f"--split validation: {folder} has no such split; it has dev, test, train, extra"
    )
    csv_file(folder / "test.csv", ["test text,-1"])
    assert texts(folder, **KNOWN) == ["dev text"]
    assert texts(folder) == ["test text"]
    (folder / "test.csv").unlink()
    assert texts(folder) == ["dev text"]
    csv_file(folder / "val.csv", ["x,yes"])
    assert error_of(folder) == f"{folder}: several splits could be read; name one by --split: dev, val"
    for name in ("dev", "val"):
        (folder / f"{name}.csv").unlink()
    assert texts(folder) == ["train text"]


def test_pairs(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", ["a,b", "c,"], "sentence1,sentence2")
    assert [list(p["text_pair"]) for p in stream(str(path))] == [["b", ""]]


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    return file.getvalue()


def test_images(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png())
    (parts,) = stream(str(tmp_path), kind="image")
    assert parts[2]["image"] == {"bytes": None, "path": str(tmp_path / "2.png")}
    assert "its files have no class" in error_of(tmp_path, "image", **KNOWN)
    (tmp_path / "1.png").write_bytes(b"junk")
    assert error_of(tmp_path, "image") == (
        f"{tmp_path}/1.png, column 'image': unreadable image (unknown format); correct or remove it, or --drop-bad-rows leaves such rows out"
    )
    pq.write_table(pa.table({"image": [png(), png()], "label": ["yes", "no"]}), tmp_path / "a.parquet")
    (parts,) = stream(str(tmp_path / "a.parquet"), kind="image", **KNOWN)
    assert parts[0]["image"]["bytes"] == png() and list(parts["label"]) == [1, 0]
