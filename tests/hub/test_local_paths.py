"""Local paths are reduced to names; nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_finetune.hub.local_paths import is_local, shorten, without_local_paths


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/home/me/data/movie", "movie"),
        ("/home/me/data/movie/", "movie"),
        ("~/my data/train.csv", "train.csv"),
        ("../shared/models/minilm", "minilm"),
        ("./x", "x"),
        (r"C:\Users\me\train.csv", "train.csv"),
        ("..", "local"),
        ("/", "local"),
        ("stanfordnlp/sst2", "stanfordnlp/sst2"),
        ("https://huggingface.co/a/b", "https://huggingface.co/a/b"),
        ("hf://datasets/a/b", "hf://datasets/a/b"),
        ("1/2 of the rows and/or more / less", "1/2 of the rows and/or more / less"),
        ("train /a/b/c.csv --model=/x/y '/p q/r s' --n 3", "train c.csv --model=y 'r s' --n 3"),
        ("'/home/me/a b/x.csv' ignored, (/data/y.csv)", "'x.csv' ignored, (y.csv)"),
        ("", ""),
    ],
)
def test_shorten(text: str, short: str) -> None:
    assert shorten(text) == short


def test_is_local() -> None:
    assert is_local("/a") and is_local("../a") and is_local("~/a") and is_local(".")
    assert not is_local("a/b") and not is_local("a") and not is_local("")


def test_nested_values_keep_labels_and_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    value = {
        "model": {"checkpoint": "runs/model", "base_model": "runs/model"},
        "labels": ["/film/horror", "x"],
        "notes": ["read /a/b/c.csv"],
        "rows": {"/kept/key": 1, "none": None, "flag": True},
    }
    assert without_local_paths(value) == {
        "model": {"checkpoint": "model", "base_model": "runs/model"},
        "labels": ["/film/horror", "x"],
        "notes": ["read c.csv"],
        "rows": {"/kept/key": 1, "none": None, "flag": True},
    }
