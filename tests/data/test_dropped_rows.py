"""With `drop_bad_rows`, rows that cannot be used are left out, counted by kind, and listed; without it, refused."""

import csv
import json
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pytest
from helpers.data_files import csv_file, error_of, noted, parquet_file, png, texts
from helpers.loading import load, stream

from hf_finetune.data.config import DataLimits, Source, SplitOptions
from hf_finetune.data.dropped_rows import write_dropped
from hf_finetune.data.readers.arrow_cells import in_pieces
from hf_finetune.data.rows import UnusableRow, count_kinds
from hf_finetune.doctor.examination import examine

GOOD = [{"text": f"text {i}", "label": "no" if i % 2 else "yes"} for i in range(20)]
LINES = [f"{row['text']},{row['label']}" for row in GOOD]


def dropped(path: Path, kind: Any = "text", **options: Any) -> dict[int, str]:
    """Return the kinds of fault of the dropped training rows by row number, and check that they are the only ones."""
    splits = load(path, kind, drop_bad_rows=True, **options)
    assert splits.dropped is not None
    rows = {row.row: row.fault.kind for row in splits.dropped["train"]}
    left = [*splits.train["row"], *splits.validation["row"]]
    assert sorted([*rows, *left]) == list(range(len(rows) + len(left)))
    assert noted(splits, f"train: {len(rows)} of {len(rows) + len(left)} rows dropped: ")
    assert "--drop-bad-rows leaves such rows out" in error_of(path, kind, **options)
    return rows


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b",no", "text missing"),
        (b"text, ", "label missing"),
        (b"one field", "malformed row"),
        (b"too,many,fields", "malformed row"),
        (b'"quoted" badly,no', "malformed row"),
        (b"caf\xe9,no", "undecodable row"),
        (b"zero\0,no", "undecodable row"),
        (b"x" * 2_000 + b",no", "too large"),
        (b"text," + b"x" * 2_000, "not a class"),
    ],
)
@pytest.mark.parametrize("at", [0, 7, 20])
def test_bad_lines_of_csv(tmp_path: Path, line: bytes, kind: str, at: int) -> None:
    lines = [each.encode() for each in LINES]
    lines.insert(at, line)
    path = write(tmp_path / "a.csv", b"\n".join([b"text,label", *lines]))
    assert dropped(path, limits=DataLimits(text_characters=1_000)) == {at: kind}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'{"text": "a"}', "label missing"),
        (b'{"text": null, "label": "no"}', "text missing"),
        (b'{"text": 5, "label": "no"}', "not a text"),
        (b'{"text": "\\ud83d", "label": "no"}', "undecodable row"),
        (b'{"text": "caf\xe9", "label": "no"}', "undecodable row"),
        (b'{"text": "a", "label": ["no"]}', "not a class"),
        (b'{"text": "a"', "malformed row"),
        (b"[" * 100_000, "malformed row"),
        (b"[1, 2]", "malformed row"),
    ],
)
def test_bad_lines_of_json(tmp_path: Path, line: bytes, kind: str) -> None:
    lines = [json.dumps(row).encode() for row in GOOD]
    path = write(tmp_path / "a.jsonl", b"\n".join([*lines[:5], line, *lines[5:]]))
    assert dropped(path) == {5: kind}


def test_bad_rows_of_one_json_document(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps([*GOOD, "no object"]))
    assert dropped(path) == {20: "malformed row"}


def test_bad_rows_of_a_workbook(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in [["text", "label"], ["#N/A", "no"], *[list(row.values()) for row in GOOD], ["a", "no", "beyond"]]:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    assert dropped(tmp_path / "a.xlsx") == {0: "text missing", 21: "malformed row"}


def test_bad_rows_of_parquet(tmp_path: Path) -> None:
    texts_N = [*(row["text"] for row in GOOD), "x" * 5_000, None]
    labels_N = [*(row["label"] for row in GOOD), "no", "no"]
    invalid = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xe9a"))
    column = pa.concat_arrays([pa.array(texts_N, pa.string()), invalid])
    path = parquet_file(tmp_path / "a.parquet", text=column, label=[*labels_N, "no"])
    kinds = dropped(path, limits=DataLimits(text_characters=1_000))
    assert kinds == {20: "too large", 21: "text missing", 22: "undecodable row"}


def test_faults_of_pieces_keep_their_rows() -> None:
    texts_N = ["a" * (5_000 if i in (0, 3, 8, 9) else 5) for i in range(11)]
    batches = pa.table({"text": texts_N}).to_batches(max_chunksize=4)
    for size in (1, 2, 3, 100):
        pieces = list(in_pieces(batches, size, "rows", DataLimits(text_characters=1_000), strict=False))
        assert [piece.first + i for piece in pieces for i in sorted(piece.faults)] == [0, 3, 8, 9]
        values = [value for piece in pieces for value in piece.values("text", strict=False)]
        assert [i for i, value in enumerate(values) if value is None] == [0, 3, 8, 9]


def test_bad_images_and_texts_of_class_folders(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(6):
            write(tmp_path / label / f"{i}.png", png(i + 10 * (label == "a")))
            write(tmp_path / label / f"{i}.txt", f"{label} {i}")
    write(tmp_path / "a" / "bad.png", b"no image")
    write(tmp_path / "b" / "bad.txt", b"caf\xe9")
    assert dropped(tmp_path, "image") == {6: "unreadable image"}
    assert dropped(tmp_path, "text") == {12: "unreadable file"}


def test_each_split_is_counted(tmp_path: Path) -> None:
    csv_file(tmp_path / "train.csv", [*texts(10), ("", "no")])
    csv_file(tmp_path / "validation.csv", [*texts(4, start=20), ("a", "maybe"), ("b", "perhaps")])
    csv_file(tmp_path / "test.csv", texts(4, start=30))
    splits = load(tmp_path, drop_bad_rows=True)
    assert splits.dropped is not None
    counts = {role: count_kinds(rows) for role, rows in splits.dropped.items()}
    assert counts == {"train": {"text missing": 1}, "validation": {"not a class": 2}, "test": {}}
    assert noted(
        splits, "train: 1 of 11 rows dropped: 1 text missing (the first: row 10 counted from 0, the text is empty)"
    )
    assert noted(
        splits,
        "validation: 2 of 6 rows dropped: 2 not a class (the first: row 4 counted from 0, the label 'maybe' is not",
    )
    assert not noted(splits, "test: ")


def test_a_split_without_any_usable_row_is_refused(tmp_path: Path) -> None:
    csv_file(tmp_path / "train.csv", texts(10))
    csv_file(tmp_path / "validation.csv", [("a", "maybe")])
    assert "the label 'maybe' is not among" in error_of(tmp_path, drop_bad_rows=True)
    assert error_of(tmp_path, drop_bad_rows=True).endswith("no validation row can be used")


def test_what_is_lost_with_a_row_is_not_dropped(tmp_path: Path) -> None:
    """Behind a quotation mark that is never closed, all rows would be lost."""
    path = write(tmp_path / "a.csv", "\n".join(["text,label", *LINES[:5], '"open,no', *LINES[5:]]))
    assert "a quotation mark is never closed" in error_of(path, drop_bad_rows=True)
    path = write(tmp_path / "b.csv", b"te\xe9xt,label\na,b\n")
    assert "byte 0xe9 is not utf-8, in the header" in error_of(path, drop_bad_rows=True)


def test_a_tsv_keeps_its_quoting_with_a_bad_row(tmp_path: Path) -> None:
    lines = ["text\tlabel", '"Open\tno', 'says "hi"\tyes', *[f"text {i}\tno" for i in range(9)], "one field"]
    path = write(tmp_path / "a.tsv", "\n".join(lines))
    assert dropped(path) == {11: "malformed row"}


def test_nothing_dropped_changes_nothing(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", texts(20))
    plain, dropping = load(path), load(path, drop_bad_rows=True)
    assert plain.fingerprint == dropping.fingerprint and plain.notes == dropping.notes
    assert plain.dropped is None and dropping.dropped == {"train": []}


def test_rows_to_predict_are_dropped_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, rows = csv_file(tmp_path / "a.csv", [("a", "x"), ("", "y"), ("c", "z")]), list[UnusableRow]()
    (part,) = stream(path, drop_bad_rows=True, dropped=rows)
    assert part["row"][:] == [0, 2] and [row.row for row in rows] == [1]
    assert "1 of 3 rows dropped: 1 text missing (the first: row 1 counted from 0, the text is empty)" in caplog.text
    rows.clear()
    (part,) = stream(path, labels=("x", "y"), drop_bad_rows=True, dropped=rows)
    assert part["row"][:] == [0] and count_kinds(rows) == {"text missing": 1, "not a class": 1}


def test_the_list_of_dropped_rows(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", [*texts(10), ("", "no"), ("a", "")])
    splits = load(path, drop_bad_rows=True)
    assert splits.dropped is not None
    write_dropped(tmp_path / "dropped.csv", splits.dropped)
    with (tmp_path / "dropped.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["split", "row", "place", "kind", "reason"],
        ["train", "10", f"{path}, row 10 (line 12)", "text missing", "the text is empty"],
        ["train", "11", f"{path}, row 11 (line 13)", "label missing", "the label is empty"],
    ]


def test_the_doctor_names_rows_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv", b"\n".join([b"text,label", *(line.encode() for line in LINES), b"caf\xe9,no", b"one"])
    )
    report = examine(Source(str(path)), "text", SplitOptions())
    (finding,) = [finding for finding in report.findings if finding.name == "unusable_row"]
    assert finding.count == 2 and "--drop-bad-rows" in finding.remedy
    assert finding.details[0] == "train row 20 (line 22): byte 0xe9 is not utf-8"
