"""The embedded texts, as a file of rows."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from hf_finetune import InputError, bbc_headlines


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_headlines(cache: Path) -> None:
    path = Path(bbc_headlines())
    assert path.is_relative_to(cache)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["label"] for row in rows) == {
        "business": 510, "entertainment": 386, "politics": 417, "sports": 511, "tech": 401,
    }  # fmt: skip
    assert {"text": "Ink helps drive democracy in Asia", "label": "tech"} in rows
    assert all(row["text"] == row["text"].strip() != "" for row in rows)


def test_a_changed_file_is_written_again(cache: Path) -> None:
    path = Path(bbc_headlines())
    content, written = path.read_bytes(), path.stat().st_mtime_ns
    assert Path(bbc_headlines()).stat().st_mtime_ns == written
    path.write_text("text,label\n")
    bbc_headlines()
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_one_line(cache: Path) -> None:
    cache.write_text("a file in the place of the folder")
    with pytest.raises(InputError, match=r"bbc_headlines\.csv: nothing can be written to "):
        bbc_headlines()
