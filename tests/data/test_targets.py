"""Reading, checking and splitting of tags and numbers; classes are in test_loading."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Features, List, Value
from helpers.data_files import csv_file, jsonl_file, parquet_file

from hf_finetune.data import loading, streaming
from hf_finetune.data.config import Source, SourceSplit, SplitOptions
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
        ("b\n,a\r\n", None, ["a", "b"]),
        ("b  a", " ", ["a", "b"]),
        ('b"', None, ['b"']),
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
        ([1.5, 10**400], {"task": "regression"}, "(int), expected a number"),
        ([1.5, -1e31], {"task": "regression"}, "the target is -1e+31 (float), expected at most 1e+30"),
        ([1e9, 1e9 + 1], {"task": "regression"}, "differ by less (1000000000 to 1000000001) than the float32"),
        ([1e-31, 2e-31], {"task": "regression"}, "differ by less (1e-31 to 2e-31) than the float32"),
        ([["a"], ["b", "x" * 1001]], {}, "the label has 1,001 characters, expected at most 1,000"),
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


@pytest.mark.parametrize("separator", ["", "::", '"', "\n", "\r"])
def test_what_separates_no_tags(tmp_path: Path, separator: str) -> None:
    path = jsonl_file(tmp_path / "a.jsonl", [{"text": f"t{i}", "tags": "a"} for i in range(9)])
    with pytest.raises(InputError) as caught:
        load(path, label_separator=separator)
    assert f"--label-separator {separator!r}: expected one character, but no quotation mark" in str(caught.value)


def test_a_whole_number_beyond_floats_is_a_class(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": 10 ** (400 * (i % 2))} for i in range(20)]
    assert load(jsonl_file(tmp_path / "a.jsonl", rows)).task == "single-label"


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


HOT = [("t0", "1", "0", ""), ("t1", "0", "true", "0.0"), ("t2", "", "", "False"), ("t3", "1", "1", "0")] * 5
HEADER = ("text", "b", "a", "c")


def test_one_column_a_tag(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", HOT, HEADER)
    splits = load(path, label=("b", "a", "c"))
    # c has no row, the order is that of the columns.
    assert splits.task == "multi-label" and splits.labels == ("b", "a")
    assert splits.named_columns == {"text": "text", "label": ["b", "a", "c"]}
    rows = {
        row: hot
        for part in (splits.train, splits.validation)
        for row, hot in zip(part["row"], labels_of(part), strict=True)
    }
    assert [rows[i].tolist() for i in range(4)] == [[1, 0], [0, 1], [0, 0], [1, 1]]
    assert any("tags without a training row are ignored: c" in note for note in splits.notes)


def test_columns_by_a_pattern(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "is_x": i % 2, "is_y": bool(i % 3), "other": "z"} for i in range(20)]
    assert load(jsonl_file(tmp_path / "a.jsonl", rows), label="is_*", text="text").labels == ("is_x", "is_y")


def test_a_column_whose_name_has_a_comma_is_one(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", [(f"t{i}", f"{i % 2}") for i in range(20)], ("text", "b,a"))
    splits = load(path, label=("b", "a"))
    assert splits.task == "single-label" and splits.columns["label"] == "b,a" and not splits.label_columns


@pytest.mark.parametrize(
    ("cell", "fields", "message"),
    [
        ("2", {}, "row 2 (line 4), column 'b,a': column 'b' holds '2' (str), expected 0 or 1"),
        ("-1", {}, "row 2 (line 4), column 'b,a': column 'b' holds '-1'"),
        ("x", {"task": "regression"}, "row 2 (line 4), column 'b,a': the target 'b' is 'x' (str), expected a number"),
        ("", {"task": "regression"}, "row 2 (line 4), column 'b,a': one of the targets is empty"),
        ("1", {"task": "single-label"}, "column 'b,a' holds 2 columns, expected classes"),
        ("1", {"label": ("b", "d")}, "--label d: "),
        ("1", {"label": ("b", "b")}, "--label b,b: the column 'b' is named twice"),
        ("1", {"label": "q*"}, "--label q*: "),
    ],
)
def test_bad_columns(tmp_path: Path, cell: str, fields: dict[str, Any], message: str) -> None:
    rows = [(f"t{i}", "1", f"{i % 2}") for i in range(20)]
    rows[2] = ("t2", cell, "0")
    path = csv_file(tmp_path / "a.csv", rows, HEADER[:3])
    with pytest.raises(InputError) as caught:
        load(path, **{"label": ("b", "a"), **fields})
    assert message in str(caught.value)


def test_a_split_without_one_of_the_columns(tmp_path: Path) -> None:
    train = csv_file(tmp_path / "a.csv", HOT, HEADER)
    test = csv_file(tmp_path / "b.csv", [row[:3] for row in HOT], HEADER[:3])
    with pytest.raises(InputError, match=r"--label c: .*b\.csv has no such column"):
        load(train, SplitOptions(test=str(test)), label=("b", "a", "c"))
    # Of a pattern, it is not silently absent.
    with pytest.raises(InputError, match=r"b\.csv: no column 'c', which .*a\.csv has; name all of them by --label"):
        load(train, SplitOptions(test=str(test)), label="[abc]*")
    source = SourceSplit(str(test), label=("b", "a"))
    with pytest.raises(InputError, match="no column 'c', which the classifier has"):
        next(streaming.stream(source, "text", labels=("b", "c"), task="multi-label"))


def test_several_targets(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", [(f"t{i}", f"{i}", f"{-i / 2}") for i in range(40)], ("text", "y", "x"))
    splits = load(path, label=("y", "x"))
    assert splits.task == "regression" and splits.labels == ("y", "x")
    assert labels_of(splits.train).shape == (36, 2)
    assert (labels_of(splits.train)[:, 1] == -labels_of(splits.train)[:, 0] / 2).all()
    # In the order of the model's outputs, whatever that of the columns.
    part = next(
        streaming.stream(SourceSplit(str(path), label=("x", "y")), "text", labels=("y", "x"), task="regression")
    )
    assert labels_of(part)[2].tolist() == [2.0, -1.0]
    # Without names, the columns of the run.
    columns = {"text": "text", "label": ("y", "x")}
    part = next(streaming.stream(SourceSplit(str(path)), "text", labels=("y", "x"), task="regression", trained=columns))
    assert labels_of(part)[2].tolist() == [2.0, -1.0]


@pytest.mark.parametrize(
    ("cells", "fields", "labels"),
    [
        (["10", "9", "2"], {"task": "ordinal"}, ("2", "9", "10")),
        (["mid", "low", "high"], {"label_order": ("low", "mid", "high", "top")}, ("low", "mid", "high")),
        (["1.0", "2.0", "0.0"], {"label_order": ("2.0", "1.0", "0.0")}, ("2", "1", "0")),
        (["0", "1", "2"], {"task": "ordinal", "label_names": ("bad", "fair", "good")}, ("bad", "fair", "good")),
    ],
)
def test_ordered_classes(tmp_path: Path, cells: list[str], fields: dict[str, Any], labels: tuple[str, ...]) -> None:
    path = csv_file(tmp_path / "a.csv", [(f"t{i}", cells[i % 3]) for i in range(30)], ("text", "stars"))
    splits = load(path, **fields)
    assert (splits.task, splits.labels) == ("ordinal", labels)
    assert np.bincount(labels_of(splits.validation)).tolist() == [1, 1, 1]
    # Never inferred.
    splits = load(path)
    hint = "if they are ordered, as stars are, use --task ordinal"
    assert splits.task == "single-label" and any(hint in note for note in splits.notes) == (cells[0] in ("0", "1.0"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "ordinal"}, "the levels in column 'stars' are text (high, low); name them from the lowest to the"),
        (
            {"label_order": ("low", "hihg")},
            "a.csv, row 1 (line 3), column 'stars': the label 'high' is no level of --label-order low,hihg",
        ),
        ({"label_order": ("low", "low", "high")}, "--label-order low,low,high: expected each level once"),
        ({"label_order": ("low",), "task": "regression"}, "--label-order low: expected none with --task regression"),
        ({"label_order": ("low", "high"), "label_names": ("x", "y")}, "expected none together with --label-names"),
    ],
)
def test_bad_orders(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    path = csv_file(tmp_path / "a.csv", [(f"t{i}", ["low", "high"][i % 2]) for i in range(30)], ("text", "stars"))
    with pytest.raises(InputError) as caught:
        load(path, **fields)
    assert message in str(caught.value)
