"""`load`: which rows are training, validation and test rows, and the messages about them."""

from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import csv_file, error_of, noted, parquet_file, png, texts
from helpers.loading import load


@pytest.fixture
def three(tmp_path: Path) -> Path:
    csv_file(tmp_path / "train.csv", texts(20))
    csv_file(tmp_path / "validation.csv", texts(6, start=100))
    csv_file(tmp_path / "test.csv", texts(4, start=200))
    return tmp_path


def test_a_label_that_train_does_not_know(three: Path) -> None:
    csv_file(three / "test.csv", [*texts(4), ("x", "yess")])
    assert error_of(three) == (
        f"{three}/test.csv, row 4 (line 6), column 'label': the label 'yess' is not among the 2 classes of the "
        "training rows (no, yes), did you mean 'yes'?; correct or remove it, or --drop-bad-rows leaves such rows out"
    )


def test_validation_and_test_by_path_and_by_name(three: Path, tmp_path: Path) -> None:
    other = csv_file(tmp_path / "other/mine.csv", texts(3, start=300))
    csv_file(three / "validation_matched.csv", texts(2, start=400))
    splits = load(str(three), validation=str(other))
    assert (len(splits.validation), len(splits.test)) == (3, 4)
    assert noted(splits, "splits not used: validation")
    assert len(load(str(three), validation="validation_matched").validation) == 2
    swapped = load(str(three), validation="test")
    assert (len(swapped.validation), swapped.test) == (4, None)
    alone = load(str(three / "train.csv"), test=str(other))
    assert (len(alone.train), len(alone.validation), len(alone.test)) == (18, 2, 3)
    assert error_of(three, validation="validaton") == (
        f"--validation validaton: no such file or folder, and no split of {three}, did you mean 'validation'?; "
        "it has test, train, validation, validation_matched"
    )
    assert f"--test {three}: it holds several splits (test, train, validation)" in error_of(three, test=str(three))
    assert f"--validation: {three}/train.csv is train already; name other rows" in error_of(three, validation="train")
    assert f"--test: {three}/test.csv is validation already" in error_of(three, validation="test", test="test")
    # The data's own files by their path, and by another spelling of it, are known for what they are.
    spelt = load(str(three), validation=f"{three}/../{three.name}/test.csv")
    assert (len(spelt.validation), spelt.test) == (4, None) and noted(spelt, "splits not used: validation")
    unlike = csv_file(tmp_path / "other/unlike.csv", [("a", "b")], ("texts", "label"))
    assert f"{unlike}: no column 'text', which {three}/train.csv has, did you mean 'texts'?" in error_of(
        three, test=str(unlike)
    )


@pytest.mark.parametrize("blank", ["-1", "", " "])
def test_an_unlabeled_test_split_is_not_scored(three: Path, blank: str) -> None:
    csv_file(three / "test.csv", [(text, blank) for text, _ in texts(4)])
    splits = load(str(three))
    assert splits.test is None and list(splits.duplicates) == ["validation"]
    assert noted(splits, "test: no row of test has a label (all are -1 or empty), so it is not evaluated")
    held_out = load(str(three), test_fraction=0.2)
    assert (len(held_out.test), len(held_out.train), len(held_out.validation)) == (4, 16, 6)


def test_a_test_split_without_a_label_column(three: Path) -> None:
    csv_file(three / "test.csv", [("x",)], ("text",))
    splits = load(str(three))
    assert splits.test is None and noted(splits, "test: no row of test has a label")


def test_an_unlabeled_validation_split(three: Path) -> None:
    csv_file(three / "validation.csv", [("x", "-1")])
    splits = load(str(three))
    assert len(splits.validation) == 2 and noted(splits, "validation: 2 of 20 rows held out from train")
    assert "validation.csv: every label in column 'label' is empty or -1; expected labeled rows for validation" in (
        error_of(three, validation="validation")
    )


def test_several_validation_splits_ask_for_one(three: Path) -> None:
    csv_file(three / "dev.csv", texts(2, start=500))
    assert error_of(three) == f"{three}: several splits could be validation; name one by --validation: dev, validation"
    assert len(load(str(three), validation="dev").validation) == 2


def test_train_must_be_there(tmp_path: Path) -> None:
    csv_file(tmp_path / "test.csv", texts(4))
    assert error_of(tmp_path) == f"{tmp_path}: no split is called train; it has test"


def test_holding_out_test_and_validation(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", texts(100, ("a", "b", "c", "c")))
    splits = load(str(path), test_fraction=0.2, validation_fraction=0.25)
    assert (len(splits.test), len(splits.validation), len(splits.train)) == (20, 20, 60)
    for rows in (splits.test, splits.validation):
        assert np.bincount(rows["label"][:]).tolist() == [5, 5, 10]
    assert sorted([*splits.train["row"], *splits.validation["row"], *splits.test["row"]]) == list(range(100))
    again = load(str(path), test_fraction=0.2, validation_fraction=0.25)
    assert again.fingerprint == splits.fingerprint and again.test.to_dict() == splits.test.to_dict()
    other = load(str(path), test_fraction=0.2, validation_fraction=0.25, split_seed=1)
    assert list(other.test["row"]) != list(splits.test["row"])


def test_rows_of_one_author_are_held_out_together(tmp_path: Path) -> None:
    # Two authors share a text, and one row has none.
    rows = [(text, label, f"author {number // 5}") for number, (text, label) in enumerate(texts(200))]
    rows[7] = (rows[2][0], rows[7][1], rows[7][2])
    rows[0] = (*rows[0][:2], "")
    path = csv_file(tmp_path / "a.csv", rows, ("text", "label", "author"))
    splits = load(str(path), test_fraction=0.2, validation_fraction=0.25, group="author")
    authors = [{rows[row][2] for row in part["row"]} - {""} for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, authors)) == len(set.union(*authors)) == 40
    assert any({"author 0", "author 1"} <= each for each in authors)
    assert 35 <= len(splits.test) <= 50 and 30 <= len(splits.validation) <= 50
    assert noted(splits, "whole groups, each class by its share as far as these allow")
    assert error_of(path, group="autor").endswith("has no column 'autor', did you mean 'author'?")
    assert "1 group is too few to hold some out; a class needs two" in error_of(
        csv_file(tmp_path / "one.csv", [(*row, "ann") for row in texts(20)], ("text", "label", "author")),
        group="author",
    )


def test_too_few_rows_to_hold_out(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", [("x", "a"), ("y", "b")])
    assert error_of(path) == (
        f"{path}: no validation split, and its 2 rows are too few to hold some out; a class needs two different ones; "
        "name a split by --validation"
    )
    path = csv_file(tmp_path / "b.csv", texts(10))
    assert error_of(path, validation_fraction=0.0) == (
        "data.validation_fraction 0.0: the data has no validation split; name one by --validation, "
        "or hold out a share above 0"
    )


def test_a_class_of_one_row_stays_in_train(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", [*texts(10), ("rare text", "rare")])
    splits = load(str(path), validation_fraction=0.9)
    assert "rare text" in splits.train["text"]
    assert noted(splits, "classes of a single row, which stays in train: rare")


def test_duplicates_are_counted(three: Path) -> None:
    csv_file(three / "test.csv", [("text 1", "yes"), ("text 1", "no"), ("Text 1", "no"), ("new", "no")])
    csv_file(three / "validation.csv", [("text 2", "no"), ("new", "yes")])
    splits = load(str(three))
    assert splits.duplicates == {"validation": 1, "test": 2}
    assert noted(splits, "duplicates: 2 of 4 test rows are exact copies of training rows")


def test_duplicates_stay_in_one_split(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", texts(20) * 3)
    splits = load(str(path), validation_fraction=0.2)
    assert splits.duplicates == {"validation": 0} and len(splits.validation) == 12
    assert noted(splits, "validation: 40 rows repeat an earlier one exactly; they stay in the same split")


def test_duplicate_images(tmp_path: Path) -> None:
    parquet_file(tmp_path / "train.parquet", image=[png(1), png(2), png(3)], label=list("aba"))
    parquet_file(tmp_path / "test.parquet", image=[png(2), png(9)], label=list("ab"))
    parquet_file(tmp_path / "val.parquet", image=[png(8)], label=["a"])
    assert load(str(tmp_path), kind="image").duplicates == {"validation": 0, "test": 1}


def test_max_train_rows(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", texts(100, ("a", "b", "b", "b")))
    whole = load(str(path))
    splits = load(str(path), max_train_rows=20)
    assert len(splits.train) == 20 and np.bincount(splits.train["label"][:]).tolist() == [5, 15]
    assert splits.validation.to_dict() == whole.validation.to_dict()
    assert noted(splits, "train: 20 of 90 rows drawn, each class by its share (split_seed 0)")
    assert load(str(path), max_train_rows=5000).fingerprint == whole.fingerprint


def test_rows_per_class(tmp_path: Path) -> None:
    """The validation rows do not change; the rows that are not drawn are returned on request."""
    path = csv_file(tmp_path / "a.csv", texts(100, ("a", "b", "b", "b")))
    whole = load(str(path))
    splits = load(str(path), rows_per_class=7, keep_left_out=True)
    assert np.bincount(splits.train["label"][:]).tolist() == [7, 7]
    assert splits.validation.to_dict() == whole.validation.to_dict()
    assert noted(splits, "train: 14 of 90 rows drawn, 7 of a class at most (split_seed 0)")
    assert sorted(splits.train["row"][:] + splits.left_out["row"][:]) == sorted(whole.train["row"][:])
    assert load(str(path), rows_per_class=7).left_out is None
    both = load(str(path), rows_per_class=7, max_train_rows=6, keep_left_out=True)
    assert np.bincount(both.train["label"][:]).tolist() == [3, 3] and len(both.left_out) == 84
    assert set(both.train["row"][:]) < set(splits.train["row"][:])
    every = load(str(path), rows_per_class=68, keep_left_out=True)
    assert every.fingerprint == whole.fingerprint and every.left_out is None
