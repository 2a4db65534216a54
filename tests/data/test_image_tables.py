"""Images that a column of a table names, and folders with a metadata file, as `datasets` has them."""

import json
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from helpers.data_files import csv_file, error_of, jsonl_file, parquet_file, png
from helpers.loading import load, locate, stream

from hf_finetune.data.config import Source
from hf_finetune.data.sources import sniff_kind


def images(folder: Path, count: int = 8) -> list[tuple[str, str]]:
    """Write images, and return their names and classes."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = [(f"images/{i}.png", "no" if i % 2 else "yes") for i in range(count)]
    for i, (name, _) in enumerate(rows):
        (folder / name).write_bytes(png(len(str(folder)) % 50 + i))
    return rows


def table(path: Path, header: tuple[str, str], rows: list[tuple[str, str]]) -> Path:
    match path.suffix:
        case ".csv":
            return csv_file(path, rows, header)
        case ".jsonl":
            return jsonl_file(path, [dict(zip(header, row, strict=True)) for row in rows])
        case ".parquet":
            return parquet_file(path, **{name: [row[i] for row in rows] for i, name in enumerate(header)})
    book = openpyxl.Workbook()
    for row in (header, *rows):
        book.active.append(row)
    book.save(path)
    return path


FORMATS = pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.xlsx", "a.parquet"])


def paths(splits: Any) -> list[str]:
    return sorted(image["path"] for rows in (splits.train, splits.validation) for image in rows["image"])


@FORMATS
def test_a_column_of_paths(tmp_path: Path, name: str) -> None:
    path = table(tmp_path / name, ("where", "kind"), images(tmp_path))
    splits = load(path, "image", image="where")
    assert paths(splits) == [str(tmp_path / "images" / f"{i}.png") for i in range(8)]
    assert splits.labels == ("no", "yes") and splits.columns == {"image": "where", "label": "kind"}
    assert sniff_kind(Source(str(path), image="where")) == "image"
    (rows,) = stream(path, "image", image="where")
    assert len(rows) == 8


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.xlsx"])
def test_a_column_of_paths_is_told_by_its_values(tmp_path: Path, name: str) -> None:
    path = table(tmp_path / name, ("where", "kind"), images(tmp_path))
    assert sniff_kind(Source(str(path))) == "image"
    assert load(path, "image").columns == {"image": "where", "label": "kind"}


def test_texts_beside_paths_stay_texts(tmp_path: Path) -> None:
    rows = [(f"{i}.png", f"text {i}", "ab"[i % 2]) for i in range(10)]
    path = csv_file(tmp_path / "a.csv", rows, ("image", "caption", "class"))
    assert sniff_kind(Source(str(path))) == "text"
    assert load(path).columns == {"text": "caption", "label": "class"}
    assert sniff_kind(Source(str(path), image="image")) == "image"


def test_paths_start_at_the_image_root(tmp_path: Path) -> None:
    images(tmp_path / "there")
    path = table(tmp_path / "a.csv", ("image", "label"), [(f"{i}.png", "ab"[i % 2]) for i in range(8)])
    assert f"row 0 (line 2), column 'image': '0.png': no such file in {tmp_path}; name the folder" in error_of(
        path, "image"
    )
    assert len(paths(load(path, "image", image_root=str(tmp_path / "there" / "images")))) == 8


@FORMATS
@pytest.mark.parametrize(
    "hostile", ["/etc/passwd", "../secret.png", "images/../../secret.png", "out.png", "images", "\0.png", "a\n.png"]
)
def test_paths_that_lead_out_are_refused(tmp_path: Path, name: str, hostile: str) -> None:
    (tmp_path / "secret.png").write_bytes(png(1))
    rows = images(tmp_path / "data")
    (tmp_path / "data" / "out.png").symlink_to(tmp_path / "secret.png")
    if name == "a.xlsx" and "\0" in hostile:
        return  # no workbook can hold it
    path = table(tmp_path / "data" / name, ("image", "label"), [*rows, (hostile, "no")])
    message = error_of(path, "image", image="image")
    assert any(words in message for words in ("leads out of", "no regular file", "no such file", "a NUL byte"))
    assert len(paths(load(path, "image", image="image", drop_bad_rows=True))) == 8


def test_texts_as_images_are_one_line(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", [(f"text {i}", "ab"[i % 2]) for i in range(8)])
    assert "column 'text': 'text 0': no such file in" in error_of(path, "image", image="text")
    path = csv_file(tmp_path / "b.csv", [(f"text {i}", "ab"[i % 2]) for i in range(8)])
    assert "no column holds the image" in error_of(path, "image")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_a_metadata_file_describes_the_images_of_its_folder(tmp_path: Path, name: str) -> None:
    table(tmp_path / name, ("file_name", "kind"), images(tmp_path))
    assert sniff_kind(Source(str(tmp_path))) == "image"
    splits = load(tmp_path, "image")
    assert splits.columns == {"image": "file_name", "label": "kind"} and len(paths(splits)) == 8


def test_split_folders_with_metadata_files(tmp_path: Path) -> None:
    for split in ("train", "test"):
        table(tmp_path / split / "metadata.csv", ("file_name", "label"), images(tmp_path / split))
    assert set(locate(tmp_path, "image").splits) == {"train", "test"}
    splits = load(tmp_path, "image")
    assert splits.test is not None and len(splits.test) == 8


def test_one_metadata_file_for_several_splits_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        images(tmp_path / split)
    table(
        tmp_path / "metadata.csv", ("file_name", "label"), [("train/images/0.png", "yes"), ("test/images/0.png", "no")]
    )
    assert "metadata.csv: one file for the splits test, train; put one into each of these folders" in error_of(
        tmp_path, "image"
    )


def test_class_folders_keep_their_classes_beside_other_metadata(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(4):
            (tmp_path / label / f"{i}.png").write_bytes(png(i + 10 * (label == "a")))
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a/0.png", "caption": "x", "author": "y"}))
    assert load(tmp_path, "image").labels == ("a", "b")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"width": 4}))
    assert load(tmp_path, "image").labels == ("a", "b")


def test_images_to_predict_need_no_class(tmp_path: Path) -> None:
    rows = images(tmp_path)
    table(tmp_path / "metadata.csv", ("file_name", "width"), [(name, "4") for name, _ in rows])
    (part,) = stream(tmp_path, "image")
    assert len(part) == 8


def test_splits_with_paths_in_a_folder(tmp_path: Path) -> None:
    rows = images(tmp_path, 12)
    table(tmp_path / "train.csv", ("image", "label"), rows[:8])
    table(tmp_path / "test.csv", ("image", "label"), rows[8:])
    splits = load(tmp_path, "image")
    assert splits.test is not None and len(splits.test) == 4
