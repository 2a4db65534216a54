"""Rows for pretraining: distinct, from all splits but validation and test, without evaluation rows."""

import csv
import json
from pathlib import Path

import pytest
from datasets import Dataset

from hf_finetune.data.config import Source
from hf_finetune.data.unlabeled import read_for_pretraining
from hf_finetune.errors import InputError

COLUMNS = {"text": "text", "label": "label"}


def rows(*texts: str) -> Dataset:
    return Dataset.from_dict({"text": list(texts), "label": [0] * len(texts), "row": list(range(len(texts)))})


def csv_of(path: Path, column: str, *texts: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[column, "n"], *([text, i] for i, text in enumerate(texts))])
    return str(path)


def test_each_once_and_none_that_is_judged_by(tmp_path: Path) -> None:
    further = csv_of(tmp_path / "more.csv", "body", "c", "d", "b", "v", "d", "", "t")
    result = read_for_pretraining(
        [rows("a", "b", "a"), rows("c")],
        [Source(further)],
        evaluated=[rows("v"), rows("t")],
        kind="text",
        columns=COLUMNS,
    )
    assert result.rows.to_dict() == {"text": ["a", "b", "c", "d"], "row": [0, 1, 2, 3]}
    assert result.counts == {"train": 3, "further": 1, "evaluated": 2, "repeated": 4, "unusable": 1}
    again = read_for_pretraining(
        [rows("a", "b"), rows("c")], [Source(further)], evaluated=[rows("v"), rows("t")], kind="text", columns=COLUMNS
    )
    assert again.fingerprint == result.fingerprint
    assert (
        read_for_pretraining([rows("a", "b")], [], evaluated=[], kind="text", columns=COLUMNS).fingerprint
        != result.fingerprint
    )


def pretraining_texts(path: str, columns: dict[str, str] = COLUMNS) -> dict[str, list]:
    """Read a source, after two training rows."""
    own = Dataset.from_dict({name: ["own 1", "own 2"] for name in columns if name != "label"})
    return read_for_pretraining([own], [Source(path)], evaluated=[], kind="text", columns=columns).rows[2:]


def test_every_split_but_validation_and_test(tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        csv_of(tmp_path / "all" / f"{name}.csv", "text", f"of {name}")
    assert pretraining_texts(str(tmp_path / "all"))["text"] == ["of train"]
    (tmp_path / "all" / "train.csv").unlink()
    with pytest.raises(InputError, match=r"pretrain.rows: .*all has only validation and test rows"):
        pretraining_texts(str(tmp_path / "all"))


def test_pairs_need_pairs(tmp_path: Path) -> None:
    columns = {"text": "one", "text_pair": "two", "label": "label"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"one": "a", "two": "b"}))
    pairs = pretraining_texts(str(tmp_path / "pairs.jsonl"), columns)
    assert pairs == {"text": ["a"], "text_pair": ["b"], "row": [2]}
    with pytest.raises(InputError, match=r"single.csv: expected 'one' and 'two' as in the labeled rows"):
        pretraining_texts(csv_of(tmp_path / "single.csv", "one", "a"), columns)


def test_too_few() -> None:
    with pytest.raises(InputError, match=r"pretrain.rows: 1 row to pretrain on; expected at least two"):
        read_for_pretraining([rows("a", "a", "v")], [], evaluated=[rows("v")], kind="text", columns=COLUMNS)
