"""Files of few bytes that hold very many rows are refused, before they take all time or memory."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from helpers.loading import load

from hf_finetune.data import rows
from hf_finetune.data.config import DataLimits, Source
from hf_finetune.data.readers import csv_file
from hf_finetune.doctor.examination import examine
from hf_finetune.errors import InputError


def refusal(path: Path, **options) -> str:
    with pytest.raises(InputError) as error:
        load(str(path), "text", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_rows_are_limited_by_the_bytes_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """50 MB of rows of 4 bytes, 240 kB as gzip, took 25 s; ten million rows of a parquet file of 60 kB, 45 s."""
    monkeypatch.setattr(csv_file, "ROWS_CHECKED", 10)
    row = json.dumps({"text": "a", "label": "b"})
    contents = {
        "a.csv.gz": "text,label\n" + "a,b\n" * 2000,
        "a.tsv.gz": "text\tlabel\n" + "a\tb\n" * 2000,
        "a.jsonl.gz": f"{row}\n" * 2000,
        "a.json.gz": f"[{','.join([row] * 2000)}]",
        "a.conll.gz": "a O\nb B\n\n" * 2000,
        "a.fasta.gz": ">a|b\nACGT\n" * 2000,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(gzip.compress(content.encode()))
        size = (tmp_path / name).stat().st_size
        message = refusal(tmp_path / name, limits=DataLimits(rows=300))
        assert re.search(rf"{name}: [\d,]+ rows or more in {size} bytes, expected 300 or less", message), message
        assert "--data.limits.rows" in message
    codes = pa.DictionaryArray.from_arrays(pa.array((np.arange(40_000) > 20_000).astype(np.int32)), ["a", "b"])
    pq.write_table(pa.table({"text": codes, "label": codes}), tmp_path / "a.parquet")
    assert "40,000 rows" in refusal(tmp_path / "a.parquet", limits=DataLimits(rows=300))
    Dataset(pa.table({"text": pa.nulls(99_000), "label": pa.nulls(99_000)})).save_to_disk(tmp_path / "saved")
    assert "99,000 rows" in refusal(tmp_path / "saved", limits=DataLimits(rows=300))


def test_a_file_may_have_as_many_rows_as_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(3000)))
    assert len(load(str(tmp_path / "a.csv"), "text", limits=DataLimits(rows=10)).train) > 2000


def test_blank_lines_are_limited(tmp_path: Path) -> None:
    """A gzip of 300 kB holds 100 MB of them, which take a minute."""
    row = json.dumps({"text": "a", "label": "b"})
    for blank in ("\n", "\r\n", "\r", "  \n"):
        for name, first in (("a.csv", "text,label"), ("a.jsonl", row), ("a.json", "[")):
            (tmp_path / name).write_bytes(f"{first}\n{blank * 30}{row}".encode())
            message = refusal(tmp_path / name, limits=DataLimits(blank_lines=20))
            assert f"{name}, line 22: more than 20 blank lines" in message and "--data.limits.blank-lines" in message


def test_counting_bad_rows_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 million empty objects, 9 MB, took 30 s, and `doctor` all memory."""
    monkeypatch.setattr(rows, "MOST_COUNTED", 1500)
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a", "label": "b"}) + "\n{}" * 9000)
    message = refusal(path)
    assert "row 1 (line 2), column 'text': the text is empty, the row has no such key, nor any other" in message
    assert "2,046 other rows or more have a bad text too" in message
    for dropping in (lambda: load(str(path), "text", drop_bad_rows=True), lambda: examine(Source(str(path)), "text")):
        with pytest.raises(InputError, match="2,047 of the first 2,048 rows cannot be used; name another column"):
            dropping()
    # Where they are fewer than half, they are dropped whatever their number.
    good = [json.dumps({"text": f"a {i}", "label": "bc"[i % 2]}) for i in range(4000)]
    path.write_text("\n".join(f"{row}\n{{}}" if i % 2 else row for i, row in enumerate(good)))
    assert len(load(str(path), "text", drop_bad_rows=True).train) > 2000


def test_hints_are_short_and_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Similar keys among 90,000 were looked for in each of the rows that lack one."""
    asked: list[int] = []
    monkeypatch.setattr(rows, "did_you_mean", lambda name, known: asked.append(len(known)) or "")
    path = tmp_path / "a.jsonl"
    many = json.dumps({f"key {i}" + "x" * 1000: 1 for i in range(2000)})
    path.write_text("\n".join([json.dumps({"text": "a", "label": "b"}), *['{"other": 1}'] * 50, many]))
    assert "the row has no such key, only 'other' (50 other rows" in refusal(path)
    assert asked == [1] * rows.EXPLAINED
    path.write_text("\n".join([json.dumps({"text": "a", "label": "b"}), many]))
    message = refusal(path)
    assert "and 1995 more" in message and len(message) < 1000 and asked == [1] * rows.EXPLAINED
