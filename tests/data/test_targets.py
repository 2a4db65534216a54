"""Reading, checking and splitting of tags and numbers; classes are in test_loading."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Features, List, Value
from helpers.data_files import csv_file, jsonl_file, parquet_file

from hf_finetune.data import loading
from hf_finetune.data.config import Source, SplitOptions
from hf_finetune.data.labels import is_labeled, label_array, labels_of
from hf_finetune.data.splits import hold_out_tags
from hf_finetune.errors import InputError


def load(path: Path, options: SplitOptions | None = None, **fields: Any) -> loading.Splits:
    return loading.load(Source(str(path), **fields), "text", options)


def tagged(tmp_path: Path, cells: list[Any], **fields: Any) -> list[list[str]]:
    """The tags of each row, in order."""
    rows = [{"text": f"t{i}", "tags": cell} for i, cell in enumerate(cells)]
    splits = load(jsonl_file(tmp_path / "a.jsonl", rows), **fields)
    tags = {}
    for part in (splits.train, splits.validation):
        hot = labels_of(part)
        tags |= {row: [splits.labels[i] for i in np.flatnonzero(hot[n])] for n, row in enumerate(part["row"])}
    return [tags[row] for row in sorted(tags)]


def test_lists_are_tags(tmp_path: Path) -> None:
    assert tagged(tmp_path, [["b", "a"], [], ["a", "a"], [1, 2.0]]) == [["a", "b"], [], ["a"], ["1", "2"]]


@pytest.mark.parametrize(
    ("cell", "separator", "expected"),
    [
        ("a, b", None, ["a", "b"]),
        ("b;a;", ";", ["a", "b"]),
        ('"x, y",a', None, ["a", "x, y"]),
        ("['b', 'a']", None, ["a", "b"]),
        ("", None, []),
    ],
)
def test_texts_are_tags(tmp_path: Path, cell: str, separator: str | None, expected: list[str]) -> None:
    fields = {"label_separator": separator} if separator else {"task": "multi-label"}
    assert tagged(tmp_path, [cell, "z", "z"], **fields)[0] == expected


def test_lists_of_named_classes(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": List(ClassLabel(names=["zebra", "ant"]))})
    path = parquet_file(tmp_path / "a.parquet", features, text=list("abcd"), label=[[0], [1, 0], [], [1]])
    splits = load(path)
    assert splits.labels == ("zebra", "ant") and splits.task == "multi-label"
    assert labels_of(splits.train).sum(axis=0).max() <= 2


def test_numbers(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", [(f"t{i}", f"{i / 4}") for i in range(40)], ("text", "score"))
    splits = load(path)
    assert splits.task == "regression" and splits.labels == ("score",)
    assert labels_of(splits.train).shape == (36, 1) and labels_of(splits.train).dtype == np.float64
    # One of each range of ten is held out.
    assert np.unique(labels_of(splits.validation)[:, 0] // 2.5).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("cells", "fields", "message"),
    [
        ([["a"], [None]], {}, "row 1 (line 2), column 'tags': one of the tags is empty"),
        ([["a"], [["b"]]], {}, "row 1 (line 2), column 'tags': one of the tags is ['b'] (list)"),
        ([["a"], {"b": 1}], {"task": "multi-label"}, "column 'tags': the tags are {'b': 1} (dict), expected a list"),
        (
            [1.5, "x"],
            {"task": "regression"},
            "row 1 (line 2), column 'tags': the target is 'x' (str), expected a number",
        ),
        ([1.5, None], {"task": "regression"}, "row 1 (line 2), column 'tags': the label is empty"),
        ([["a"], ["b"]], {"task": "regression"}, "holds lists, expected numbers for regression"),
        ([["a"], ["b"]], {"task": "single-label"}, "or use --task multi-label"),
        ([["a"], ["b"]], {"label_names": ("x",)}, "data.label_names: expected none with tags"),
    ],
)
def test_bad_labels(tmp_path: Path, cells: list[Any], fields: dict[str, Any], message: str) -> None:
    path = jsonl_file(tmp_path / "a.jsonl", [{"text": f"t{i}", "tags": cell} for i, cell in enumerate(cells)])
    with pytest.raises(InputError) as caught:
        load(path, **fields)
    assert message in str(caught.value)


def test_an_unknown_tag_of_the_test_rows(tmp_path: Path) -> None:
    train = jsonl_file(tmp_path / "train.jsonl", [{"text": f"t{i}", "tags": ["a", "b"][: i % 3]} for i in range(9)])
    test = jsonl_file(tmp_path / "other.jsonl", [{"text": "u", "tags": ["bb"]}])
    with pytest.raises(InputError, match="the tag 'bb' is not among the 2 tags of the training rows"):
        load(train, SplitOptions(test=str(test)))


def test_every_tag_has_its_share_of_the_rows_held_out() -> None:
    rng = np.random.default_rng(0)
    hot = (rng.random((1_000, 6)) < [0.5, 0.2, 0.1, 0.05, 0.02, 0.004]).astype(np.int8)
    first = np.arange(1_000)
    first[500:520] = np.arange(20)  # repeated inputs
    mask = hold_out_tags(hot, first, fraction=0.2, seed=(0, 1))
    assert mask.mean() == pytest.approx(0.2, abs=0.01) and (mask[500:520] == mask[:20]).all()
    shares = hot[mask].sum(axis=0) / hot.sum(axis=0)
    assert np.abs(shares[:4] - 0.2).max() < 0.05 and (hot[~mask].sum(axis=0) > 0).all()
    assert (mask == hold_out_tags(hot, first, fraction=0.2, seed=(0, 1))).all()
    assert (mask != hold_out_tags(hot, first, fraction=0.2, seed=(1, 1))).any()


def test_fewer_training_rows_have_all_tags_by_their_share(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "tags": ["a", "b", "c"][: i % 4]} for i in range(100)]
    splits = load(jsonl_file(tmp_path / "a.jsonl", rows), SplitOptions(max_train_rows=40))
    assert len(splits.train) == 40 and labels_of(splits.train).mean(axis=0) == pytest.approx(
        [0.75, 0.5, 0.25], abs=0.06
    )


def test_label_arrays() -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, float("nan"), 4.0]), 2)
    assert label_array(lists).shape == (2, 2) and is_labeled(label_array(lists)).tolist() == [True, False]
    assert is_labeled(np.array([0, -1])).tolist() == [True, False]
    assert is_labeled(np.array([[0, 1], [-1, -1]])).tolist() == [True, False]
