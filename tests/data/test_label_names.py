"""Names for classes that the data number; labels that look like one class."""

from pathlib import Path
from typing import Any

import pytest
import tyro
from helpers.data_files import csv_file, error_of, noted, parquet_file
from helpers.loading import load, stream

from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.config.data import TextData
from hf_finetune.data.config import Source, SplitOptions
from hf_finetune.data.labels import near_labels
from hf_finetune.doctor.examination import examine
from hf_finetune.utils.plain import merge


def numbered(path: Path, labels: list[Any]) -> Path:
    texts = [f"text {i}" for i in range(20)]
    values = [labels[i % len(labels)] for i in range(20)]
    return (
        parquet_file(path, text=texts, label=values)
        if path.suffix == ".parquet"
        else csv_file(path, list(zip(texts, values, strict=True)))
    )


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
@pytest.mark.parametrize("labels", [[1, 0], [1.0, 0.0], [True, False], [5, 1], [10, 9], [1, -2]])
def test_names_follow_the_order_of_the_numbers(tmp_path: Path, name: str, labels: list[Any]) -> None:
    splits = load(numbered(tmp_path / name, labels), label_names=("pos, or so", "neg"))
    assert splits.labels == ("pos, or so", "neg")
    for row in [*splits.train, *splits.validation]:
        assert splits.labels[row["label"]] == ("neg" if row["row"] % 2 == 0 else "pos, or so")
    first = str(labels[1]).lower().removesuffix(".0")
    assert noted(splits, f"labels named: {first} = pos, or so, ") and splits.label_values[first] == "pos, or so"


def test_other_splits_are_numbered_alike(tmp_path: Path) -> None:
    numbered(tmp_path / "train.csv", [0, 1])
    csv_file(tmp_path / "validation.csv", [("a", "1.0"), ("b", "1")])
    csv_file(tmp_path / "test.csv", [("c", "1"), ("d", "neg")])
    splits = load(tmp_path, label_names=("neg", "pos"))
    assert splits.test is not None
    assert splits.validation["label"][:] == [1, 1] and splits.test["label"][:] == [1, 0]


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (
            [0, 1],
            ("a", "b", "c"),
            "--label-names a,b,c: 3 names, but column 'label' of {} holds 2 classes (0, 1); name each",
        ),
        ([0, 1, 2], ("a", "b"), "--label-names a,b: 2 names, but column 'label' of {} holds 3 classes (0, 1, 2)"),
        (["x", "y"], ("a", "b"), "--label-names a,b: the labels in column 'label' of {} are text (x, y); leave it out"),
        ([0, 1], ("a", "a"), "--label-names a,a: expected a name of its own for each class"),
        ([0, 1], ("a", " "), "expected a name of its own for each class"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, labels: list[Any], names: tuple[str, ...], expected: str) -> None:
    path = numbered(tmp_path / "a.csv", labels)
    assert expected.format(path) in error_of(path, label_names=names)


def test_a_model_knows_the_numbers_of_its_data(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", [("a", "1"), ("b", "2"), ("c", "pos")])
    (rows,) = stream(path, labels=("neg", "pos"), label_values={"1": "neg", "2": "pos"})
    assert rows["label"][:] == [0, 1, 1]
    path = csv_file(tmp_path / "b.csv", [("a", "1"), ("b", "0")])
    (rows,) = stream(path, labels=("neg", "pos"), label_names=("neg", "pos"))
    assert rows["label"][:] == [1, 0]


def test_names_on_the_command_line_and_in_files() -> None:
    job = parse_train(TrainJob, ["sst2", "--text", "text", "--label-names", 'neg,"pos, or so"'], "train")
    assert job.recipe.data.label_names == ("neg", "pos, or so")
    assert tyro.cli(Source, args=["a", "--label-names", "neg, pos"]).label_names == ("neg", "pos")
    assert merge(TextData(path="a"), {"label_names": ["x", "y"]}).label_names == ("x", "y")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["positive", "postive", "negative"], [("positive", "postive")]),
        (["sport", "Sports", "news"], [("Sports", "sport")]),
        (["recieve", "receive"], [("receive", "recieve")]),
        (["horse", "house", "cat", "cats", "level1", "level"], []),
        (["yes ", "Yes"], []),
        ([], []),
    ],
)
def test_labels_that_differ_by_one_letter(labels: list[str], expected: list[tuple[str, str]]) -> None:
    assert near_labels(labels) == expected


def test_the_doctor_counts_labels_that_look_like_one_class(tmp_path: Path) -> None:
    rows = [(f"text {i}", "positive" if i % 2 else "negative") for i in range(30)]
    path = csv_file(tmp_path / "a.csv", [*rows, ("a", "postive"), ("b", "Negative"), ("c", "Negative")])
    findings = {finding.name: finding for finding in examine(Source(str(path)), "text", SplitOptions()).findings}
    assert findings["near_labels"].details == ("'positive' (15 rows), 'postive' (1 row)",)
    assert findings["similar_labels"].details == ("'Negative' (2 rows), 'negative' (15 rows)",)
    assert "write it in one way" in findings["near_labels"].remedy
