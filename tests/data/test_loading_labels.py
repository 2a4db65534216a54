"""`load`: labels of every type, those of no use, and those that mean that there is none."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Value
from helpers.data_files import csv_file, error_of, jsonl_file, noted, parquet_file, texts
from helpers.loading import load, stream

from hf_finetune.errors import InputError


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2, 10, 2, 10], ("2", "10")),
        ([True, False] * 2, ("false", "true")),
        (["True", "False"] * 2, ("false", "true")),
        (["TRUE", "maybe"] * 2, ("TRUE", "maybe")),
        (["b", "a"] * 2, ("a", "b")),
        ([1.0, 2.0] * 2, ("1", "2")),
        # As pandas writes integers where one is missing.
        (["1.0", "2.0"] * 2, ("1", "2")),
        (["1.0", "2.0.1"] * 2, ("1.0", "2.0.1")),
        (["007", "8"] * 2, ("007", "8")),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_types_of_labels(tmp_path: Path, form: str, values: list, expected: tuple[str, ...]) -> None:
    path = tmp_path / f"a.{form}"
    if form == "jsonl":
        jsonl_file(path, [{"text": f"t{i}", "label": v} for i, v in enumerate(values)])
    else:
        parquet_file(path, text=[f"t{i}" for i in range(len(values))], label=values)
    splits = load(str(path))
    assert splits.labels == expected
    for row in splits.train:
        name = splits.labels[row["label"]]
        assert name in (value := str(values[row["row"]]), value.removesuffix(".0"), value.lower())


def test_classes_of_a_model_from_before_are_found_under_their_plain_names(tmp_path: Path) -> None:
    path = parquet_file(tmp_path / "a.parquet", text=["a", "b"], label=[0.0, 1.0])
    for labels in (("0.0", "1.0"), ("0", "1")):
        (rows,) = stream(path, labels=labels)
        assert rows["label"][:] == [0, 1]
    path = csv_file(tmp_path / "a.csv", [("a", "True"), ("b", "false")])
    for labels in (("False", "True"), ("false", "true")):
        (rows,) = stream(path, labels=labels)
        assert rows["label"][:] == [1, 0]


def test_labels_of_several_types_are_compared_as_text(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": v} for i, v in enumerate([1, "1", 2, "2", 1, "2"])]
    splits = load(str(jsonl_file(tmp_path / "a.jsonl", rows)))
    assert splits.labels == ("1", "2")
    assert noted(splits, "the labels have several types (int, str)")


def test_numbers_in_csv_sort_as_numbers(tmp_path: Path) -> None:
    splits = load(str(csv_file(tmp_path / "a.csv", texts(30, ("10", "9", "-1")))))
    assert splits.labels == ("-1", "9", "10")


def test_class_names_keep_their_order(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["zebra", "ant"])})
    path = parquet_file(tmp_path / "a.parquet", features, text=list("abcd"), label=[0, 1, 0, 1])
    splits = load(str(path))
    assert splits.labels == ("zebra", "ant") and all(r["label"] == r["row"] % 2 for r in splits.train)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            ["a", 2.5],
            "row 1 (line 2), column 'label': the label is 2.5, expected a class; numbers need --task regression",
        ),
        (
            ["a", ["b"]],
            "row 1 (line 2), column 'label': the label is ['b'] (list), expected one class; several tags a row",
        ),
        ([["a"], [["b"]]], "row 1 (line 2), column 'label': one of the tags is ['b'] (list), expected text"),
        ([[], []], "a.jsonl: no row has a tag in column 'label'; expected some"),
        ([1.5, "x"], "row 0 (line 1), column 'label': the label is 1.5, expected a class"),
        ([1.5, 1.5], "a.jsonl: every row has the target 1.5; expected numbers that differ"),
        (["a", {"b": 1}], "row 1 (line 2), column 'label': the label is {'b': 1} (dict)"),
        (["a", "a"], "a.jsonl: every row has the label 'a'; expected at least two classes"),
        ([None, ""], "a.jsonl: every label in column 'label' is empty or -1; expected labeled rows for train"),
        ([-1, -1], "a.jsonl: every label in column 'label' is empty or -1; expected labeled rows for train"),
    ],
)
def test_labels_of_no_use(tmp_path: Path, values: list, expected: str) -> None:
    path = jsonl_file(tmp_path / "a.jsonl", [{"text": f"t{i}", "label": v} for i, v in enumerate(values)])
    assert expected in error_of(path, label="label")


def test_float_columns(tmp_path: Path) -> None:
    path = parquet_file(tmp_path / "a.parquet", text=["a", "b"], label=[0.5, 1.0])
    message = "row 0 counted from 0, column 'label': the label is 0.5, expected a class; numbers need --task regression"
    assert message in error_of(path, task="single-label")
    path = parquet_file(tmp_path / "c.parquet", text=["a", "b", "c"], label=[0.5, 1.0, float("inf")])
    assert "row 2 counted from 0, column 'label': the target is inf (float), expected a finite number" in error_of(path)
    path = parquet_file(tmp_path / "b.parquet", text=["a", "b", "c"], label=[0.0, 1.0, float("nan")])
    assert "row 2 counted from 0, column 'label': the label is empty" in error_of(path)


def test_class_numbers_without_a_name(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    table = pa.table({"text": ["x", "y", "z"], "label": [0, 1, 7]}).replace_schema_metadata(
        features.arrow_schema.metadata
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert "row 2 counted from 0, column 'label': the label is 7, but its 2 classes are numbered 0 to 1" in error_of(
        tmp_path / "a.parquet"
    )


def test_rows_without_a_gold_label_are_left_out_and_counted(tmp_path: Path) -> None:
    """-1 as the number of a named class, as in SNLI; in every split, whatever else is wrong with such a row."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    for split, count in {"train": 2000, "validation": 40, "test": 20}.items():
        texts = [f"{split} {i}" if i % 10 else "" for i in range(count)]
        labels = [i % 2 if i % 10 else -1 for i in range(count)]
        if split == "train":
            # A whole part of the rows that are read at a time.
            labels[:1024] = [-1] * 1024
        table = pa.table({"text": texts, "label": labels}).replace_schema_metadata(features.arrow_schema.metadata)
        pq.write_table(table, tmp_path / f"{split}.parquet")
    splits = load(str(tmp_path))
    assert [len(rows) for rows in (splits.train, splits.validation, splits.test)] == [879, 36, 18]
    assert splits.train["row"][:2] == [1024, 1025] and splits.test["row"][:10] == [*range(1, 10), 11]
    assert noted(splits, "test: 2 of 20 rows have the label -1, which means no gold label, and are left out")
    assert noted(splits, "train: 1121 of 2000 rows have the label -1")


def test_minus_one_is_a_class_beside_others(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", texts(12, ("-1", "0", "1")))
    assert load(str(path)).labels == ("-1", "0", "1")


def test_odd_classes_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(str(csv_file(tmp_path / "a.csv", texts(20, ("1.5", "2.0")))), task="single-label")
    assert "a.csv: the labels in column 'label' are numbers with fractions" in caplog.text
    load(str(csv_file(tmp_path / "b.csv", [*texts(20, tuple("abcdefghijklmno"))])))
    assert "b.csv: column 'label' holds 15 classes in 20 rows; is it the label?" in caplog.text
    message = "c.csv: column 'label' holds 15 different numbers with fractions in 20 rows: expected classes; predict the numbers"
    with pytest.raises(InputError, match=message):
        load(str(csv_file(tmp_path / "c.csv", texts(20, tuple(f"{i / 2}" for i in range(15))))), task="single-label")
