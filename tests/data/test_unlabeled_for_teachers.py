"""Unlabeled rows for a teacher: their sources, dropped rows, and techniques that need classes."""

import csv
from pathlib import Path

import numpy as np
import pytest
from helpers.loading import load

from hf_finetune.augmentation.compose import Sometimes
from hf_finetune.augmentation.operations import Population, TextBatch
from hf_finetune.augmentation.text.sentences import MixHalves
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.data.sampling import ClassDraw
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.errors import InputError


def write(path: Path, texts: list[str], **columns: list[str]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", *columns), *zip(texts, *columns.values(), strict=True)])
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    """Ten training rows and four validation rows, in separate files."""
    classes = ["no", "yes"] * 5
    return {
        "path": write(tmp_path / "mine.csv", [f"text {i}" for i in range(10)], label=classes),
        "validation": write(tmp_path / "val.csv", [f"seen {i}" for i in range(4)], label=classes[:4]),
    }


def test_further_files_stand_behind_the_training_rows(data: dict[str, str], tmp_path: Path) -> None:
    """Of seven rows in two files, two are validation rows, one is a training row, one occurs twice; labels are not
    read."""
    one = write(tmp_path / "one.csv", ["new 0", "seen 1", "text 3", "new 1"])
    other = write(tmp_path / "other.csv", ["seen 2", "new 1", "new 2"], label=["no", "neither", ""])
    plain, splits = load(**data), load(**data, unlabeled=(one, other))
    assert splits.train["text"][:] == [*plain.train["text"][:], "new 0", "new 1", "new 2"]
    assert splits.train["label"][:] == [*plain.train["label"][:], -1, -1, -1]
    assert splits.train["row"][-3:] == [0, 3, 2] and splits.labels == ("no", "yes")
    assert splits.unlabeled_counts == {"rows": 3, "evaluated": 2, "repeated": 2, "unusable": 0}
    assert plain.unlabeled_counts is None
    assert splits.notes[-1].startswith("unlabeled: 3 rows of one.csv, other.csv for the teacher")
    assert splits.duplicates == plain.duplicates and splits.fingerprint != plain.fingerprint
    assert labeled_rows(splits.train)["text"][:] == plain.train["text"][:]
    assert labeled_rows(plain.train) is plain.train


def test_what_max_train_rows_leaves_can_be_answered(data: dict[str, str]) -> None:
    """Train by its name: the rows that are not drawn, without labels."""
    splits = load(**data, max_train_rows=4, unlabeled=("train",))
    assert splits.unlabeled_counts == {"rows": 6, "evaluated": 0, "repeated": 4, "unusable": 0}
    assert len(set(splits.train["text"][:])) == 10 and splits.train["label"][4:] == [-1] * 6


def test_what_is_refused(data: dict[str, str], tmp_path: Path) -> None:
    for name, content, message in (
        ("gone.csv", None, r"^--unlabeled .*gone.csv: no such file or folder, and no split of"),
        (
            "seen.csv",
            ["seen 0", "text 0"],
            r"^--unlabeled seen.csv: no row is left after dropping 1 that equal a validation",
        ),
        (
            "empty.csv",
            ["text 0", " "],
            r"no row is left after dropping .*, 1 that are empty or damaged \(the first: .*empty.csv, row 1",
        ),
    ):
        path = tmp_path / name
        if content is not None:
            write(path, content)
        with pytest.raises(InputError, match=message):
            load(**data, unlabeled=(str(path),))
    (tmp_path / "other.csv").write_text("one,two\nnew,old\n")
    with pytest.raises(InputError, match=r"other.csv: expected 'text' as in the labeled rows, .*it has 'one', 'two'"):
        load(**data, unlabeled=(str(tmp_path / "other.csv"),))


def test_empty_rows_are_left_out(data: dict[str, str], tmp_path: Path) -> None:
    """Unusable rows are counted, and the first one is named; missing labels do not matter."""
    splits = load(**data, unlabeled=(write(tmp_path / "more.csv", ["", "new", " "]),))
    assert splits.unlabeled_counts == {"rows": 1, "evaluated": 0, "repeated": 0, "unusable": 2}
    assert splits.train["text"][-1] == "new" and splits.train["row"][-1] == 1
    assert splits.notes[-1].endswith(", row 0 (line 2), the text is empty)")


def test_a_column_of_another_name(data: dict[str, str], tmp_path: Path) -> None:
    """An obvious column is used, and noted."""
    (tmp_path / "other.csv").write_text("sentence,label\nnew,bad\nnewer,no class of train\n")
    splits = load(**data, unlabeled=(str(tmp_path / "other.csv"),))
    assert splits.unlabeled_counts == {"rows": 2, "evaluated": 0, "repeated": 0, "unusable": 0}
    assert splits.train["text"][-2:] == ["new", "newer"]
    assert "inferred for other.csv: text from column 'sentence'" in splits.notes


def test_an_epoch_drawn_by_class_has_each_of_them_once() -> None:
    draw = ClassDraw(np.array([0, 0, 0, 1, -1, -1]), "balanced")
    drawn = draw(np.random.default_rng(0))
    assert len(drawn) == 6 and sorted(drawn)[-2:] == [4, 5]
    assert draw.quota_C.tolist() == [2, 2] and sorted(drawn).count(3) == 2


def test_operations_that_look_at_the_class() -> None:
    """An unlabeled row gets no half of another row; it counts as the most frequent class where rare classes come
    first."""
    labels = np.array([0, 1, 1, 1, 1, -1])
    texts = [f"a{i} b{i} c{i} d{i}" for i in range(6)]
    population = Population(("rare", "often"), labels, texts)
    batch = TextBatch(texts, labels=labels, population=population)
    rngs = [np.random.default_rng(i) for i in range(6)]
    changed = MixHalves(p=1.0)(batch, rngs).texts
    assert changed[0] == texts[0] and changed[5] == texts[5] and changed[1] != texts[1]
    assert population.rows_per_class.tolist() == [1, 4]
    many = TextBatch([texts[0]] * 4000, labels=np.full(4000, -1), population=population)
    share = np.mean(
        [t != texts[0] for t in Sometimes(SwapWords(1.0), 0.8, "rare")(many, np.random.default_rng(0)).texts]
    )
    assert share == pytest.approx(0.2, abs=0.05)
