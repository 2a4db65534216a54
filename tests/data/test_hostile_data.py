"""Tables and texts that others made neither hang nor fill the memory; each is refused in one line."""

import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.hostile_files import refusal, save_image
from helpers.loading import load, stream

from hf_finetune.data.config import DataLimits
from hf_finetune.data.readers.arrow_cells import in_pieces
from hf_finetune.data.readers.json_file import JsonFile
from hf_finetune.data.readers.parquet_file import ParquetFile
from hf_finetune.data.readers.text_file import read_lines
from hf_finetune.errors import InputError


def bomb(path: Path, rows: int, text: str, **options) -> Path:
    """Write one text that all rows share: a few bytes of parquet."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [text])
    if options.pop("plain_type", False):
        texts = texts.cast(pa.string())
    pq.write_table(pa.table({"text": texts, "label": ["a", "b"] * (rows // 2)}), path, compression="zstd", **options)
    return path


@pytest.mark.parametrize("plain_type", [False, True])
def test_a_small_file_of_many_bytes_is_refused_as_they_are_counted(tmp_path: Path, plain_type: bool) -> None:
    path = bomb(tmp_path / "a.parquet", 4_000, "word " * 40, plain_type=plain_type)
    assert path.stat().st_size < 3_000
    limits = DataLimits(decoded_bytes=60_000)
    message = refusal(path, "text", limits=limits)
    assert "a.parquet: it decodes to more than" in message and "--data.limits.decoded-bytes" in message
    with pytest.raises(InputError, match="decoded-bytes"):
        list(stream(path, "text", labels=("a", "b"), limits=limits))
    assert sum(chunk.size for chunk in ParquetFile(path).chunks(["text"], 1_000)) == 4_000


def test_the_size_that_a_file_declares_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    rows = {"text": ["word " * 500] * 100, "label": ["a", "b"] * 50}
    pq.write_table(pa.table(rows), path, compression="zstd", use_dictionary=False)
    monkeypatch.setattr("hf_finetune.data.readers.parquet_file.in_pieces", lambda *_, **__: pytest.fail("decoded"))
    reader = ParquetFile(path, limits=DataLimits(decoded_bytes=100_000))
    with pytest.raises(InputError, match="decodes to more than"):
        list(reader.chunks(["text"], 100))


def test_batches_are_smaller_where_a_dictionary_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bomb(tmp_path / "a.parquet", 40, "x" * 9_000, plain_type=True)
    monkeypatch.setattr("hf_finetune.data.readers.parquet_file.BATCH_BYTES", 30_000)
    sizes = []
    read = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda f, size, **o: sizes.append(size) or read(f, size, **o))
    assert [chunk.size for chunk in ParquetFile(path).chunks(["text"], 30)] == [30, 10]
    # The first call looks at metadata only.
    assert sizes == [1, 3]


def test_cells_are_limited(tmp_path: Path) -> None:
    limits = DataLimits(text_characters=100)
    rows = [("short", "a"), ("other", "b")] * 5 + [("x" * 101, "a")]
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    message = refusal(tmp_path / "a.csv", "text", limits=limits)
    assert "a.csv, row 10 (line 12), column 'text': the text has 101 characters, expected at most 100" in message
    assert "--data.limits.text-characters" in message
    texts, labels = zip(*[("x" * 401, "a"), ("y", "b")] * 4, strict=True)
    pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "a.parquet")
    assert "a.parquet, row 0 counted from 0, column 'text': 401 bytes" in refusal(
        tmp_path / "a.parquet", "text", limits=limits
    )
    (tmp_path / "b.csv").write_text("text,label\nsome,a\nmore," + "b" * 1_001 + "\n")
    assert "row 1 (line 3), column 'label': the label has 1,001 characters" in refusal(tmp_path / "b.csv", "text")


def test_pieces_keep_the_rows_and_their_numbers() -> None:
    texts = ["a" * size for size in (1, 40_000_000, 2, 3, 20_000_000, 20_000_000, 4)]
    batches = pa.table({"text": texts}).to_batches(max_chunksize=3)
    limits = DataLimits(text_characters=40_000_000)
    parts = [(piece.first, piece.table["text"].to_pylist()) for piece in in_pieces(batches, 2, "rows", limits)]
    assert [text for _, part in parts for text in part] == texts
    assert [first for first, _ in parts] == np.cumsum([0, *(len(part) for _, part in parts[:-1])]).tolist()
    assert max(len(part) for _, part in parts) == 2
    assert [len(part) for _, part in parts] == [1, 1, 2, 1, 2]


def test_classes_are_limited_by_the_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"text {i},c{i % 30}\n" for i in range(90)))
    message = refusal(tmp_path / "a.csv", "text", limits=DataLimits(classes=20))
    assert "column 'label' holds 30 classes in 90 rows" in message and "--data.limits.classes" in message
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"text {i},c{i % 30}\n" for i in range(300)))
    assert len(load(str(tmp_path / "a.csv"), "text", limits=DataLimits(classes=20)).labels) == 30


def test_columns_are_limited(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(30)]
    (tmp_path / "a.csv").write_text(f"text,label,{','.join(names)}\na,b{',1' * 30}\n")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "a", "label": "b", n: 1}) + "\n" for n in names))
    pq.write_table(pa.table({name: ["a"] for name in ("text", "label", *names)}), tmp_path / "a.parquet")
    for suffix, columns in (("csv", 32), ("jsonl", 21), ("parquet", 32)):
        message = refusal(tmp_path / f"a.{suffix}", "text", limits=DataLimits(columns=20))
        assert f"{columns} columns, expected 20 or less" in message and "--data.limits.columns" in message


def test_long_lines_are_refused(tmp_path: Path) -> None:
    row = json.dumps({"text": "a" * 100, "label": "b"})
    for name, content in (("a.csv", f"text,label\n{'a' * 100},b\n"), ("a.jsonl", f"\n{row}\n"), ("a.json", f"[{row}]")):
        (tmp_path / name).write_text(content)
        place = "row 0 counted from 0" if name == "a.json" else "line 2"
        message = refusal(tmp_path / name, "text", limits=DataLimits(row_characters=100))
        assert f"{name}, {place}: more than 100 characters" in message and "--data.limits.row-characters" in message


def test_a_declared_number_of_classes_makes_no_names(tmp_path: Path) -> None:
    """A billion took all memory; nested metadata, a traceback."""
    for described in ({"label": {"_type": "ClassLabel", "num_classes": 10**9}}, {"label": 5}, [], "[" * 10_000):
        metadata = json.dumps({"info": {"features": described}}) if not isinstance(described, str) else described
        rows = pa.table({"text": ["a", "b"], "label": [0, 1]}).replace_schema_metadata({"huggingface": metadata})
        pq.write_table(rows, tmp_path / "a.parquet")
        assert ParquetFile(tmp_path / "a.parquet").columns()["label"].kind == "number"


def test_sparse_files_are_not_read_as_a_whole(tmp_path: Path) -> None:
    """Holes of 10 GB."""
    for label in "ab":
        for i in range(3):
            save_image(tmp_path / "data" / label / f"{i}.png", 10 * i + ord(label))
            (tmp_path / "data" / label / f"{i}.txt").write_text(f"{label} {i}")
    for name in ("data/a/0.png", "data/b/1.txt", "rows.csv"):
        with (tmp_path / name).open("ab") as file:
            file.truncate(10_000_000_000)
    assert "--data.limits.image-bytes" in refusal(tmp_path / "data")
    assert "--data.limits.text-characters" in refusal(tmp_path / "data", "text")
    assert "rows.csv, line 1: a NUL byte" in refusal(tmp_path / "rows.csv", "text")


def test_long_lines_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_finetune.data.readers.text_file.CHARACTERS_AT_ONCE", 4)
    for content in ("abc\ndefg\nhijkl\n\nabcdefgh", "abc\r\ndefghijk\r\n", "abcd", ""):
        (tmp_path / "a.txt").write_bytes(content.encode())
        assert list(read_lines(tmp_path / "a.txt", "utf-8")) == content.splitlines(keepends=True)


def test_half_a_surrogate_pair_is_named(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(20)]
    for column in ("text", "label"):
        bad = [*rows, {**rows[0], column: "x\ud800"}]
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
        message = refusal(tmp_path / "a.jsonl", "text")
        assert f"row 20 (line 21), column '{column}'" in message and "surrogate" in message
        message.encode()
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({**row, "\udcff": 1}) + "\n" for row in rows))
    refusal(tmp_path / "a.jsonl", "text").encode()


def test_parquet_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"caf\xe9"] * 4, pa.binary())
    invalid = pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())
    for column, other in (("text", "label"), ("label", "text")):
        pq.write_table(pa.table({column: invalid, other: ["a", "b"] * 4}), tmp_path / "a.parquet")
        assert f"a.parquet, row 1 counted from 0, column '{column}': the text is not UTF-8" in refusal(
            tmp_path / "a.parquet", "text"
        )


def test_many_columns_are_read_at_once(tmp_path: Path) -> None:
    """A header of 100,000 names took minutes: each was counted in all of them."""
    names = ",".join(f"c{i}" for i in range(50_000))
    rows = "".join(f"text {i},{'ab'[i % 2]}{',x' * 50_000}\n" for i in range(8))
    (tmp_path / "a.csv").write_text(f"text,label,{names}\n{rows}")
    started = time.process_time()
    assert len(load(str(tmp_path / "a.csv"), "text").train) == 6
    assert time.process_time() - started < 5
    (tmp_path / "a.csv").write_text(f"text,label,{names},c7\n{rows}")
    assert "the header names the column 'c7' twice" in refusal(tmp_path / "a.csv", "text")


def test_a_name_of_a_column_is_shortened(tmp_path: Path) -> None:
    rows = "".join(f"text {i},{'ab'[i % 2]},x\n" for i in range(8))
    (tmp_path / "a.csv").write_text(f"text,label,{'x' * 100_000}\n{rows}")
    assert max(map(len, load(str(tmp_path / "a.csv"), "text").notes)) < 300


def test_rows_of_other_keys_are_inspected_at_once(tmp_path: Path) -> None:
    rows = [{"text": f"t {i}", "label": "ab"[i % 2]} | {f"k{i}x{j}": 1 for j in range(200)} for i in range(1000)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    start = time.process_time()
    assert len(JsonFile(path, limits=DataLimits(columns=300_000)).columns()) == 200_002
    assert time.process_time() - start < 5
