"""Findings of the doctor in tags and in numbers, with every defect inserted by hand."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from helpers.hand_made import by_name, clean, rows_of

from hf_finetune.data.config import Source, TaskName
from hf_finetune.doctor.examination import Report, examine
from hf_finetune.doctor.labels import CHECKS
from hf_finetune.doctor.numbers import examine_numbers
from hf_finetune.doctor.tags import examine_tags

TEXTS = [text for text, _ in clean(240)]


def examined(folder: Path, labels: list[str], task: str, texts: list[str] = TEXTS) -> Report:
    rows = "\n".join(f"{text},{label}" for text, label in zip(texts, labels, strict=False))
    (folder / "train.csv").write_text(f"text,label\n{rows}\n")
    return examine(Source(str(folder), task=task, label_separator=None), "text")


def test_every_task_has_checks() -> None:
    assert CHECKS.keys() == set(get_args(TaskName))


def test_nothing_is_found_in_clean_tags_and_numbers(tmp_path: Path) -> None:
    report = examined(tmp_path, [["a", "b", '"a,b"'][i % 3] for i in range(240)], "multi-label")
    assert report.findings == () and report.classes == {"a": {"train": 160}, "b": {"train": 160}}
    assert "240 texts, 2 tags" in report.describe() and report.to_dict()["task"] == "multi-label"
    numbers = np.random.default_rng(0).normal(10, 2, 240).round(3)
    report = examined(tmp_path, list(map(str, numbers)), "regression")
    assert report.findings == () and report.classes == {}
    assert report.statistics["label"]["mean"] == pytest.approx(numbers.mean(), rel=1e-3)


def test_tags_by_hand() -> None:
    """Tag 0 is everywhere, 1 and 2 always together, 3 alone only; of the last row none but tag 0."""
    hot = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 0]])
    found = {finding.name: finding for finding in examine_tags(hot, ("all", "b", "c", "d")) if finding.count}
    assert found.keys() == {"tags_together", "tags_everywhere", "tags_never_alone"}
    assert found["tags_together"].details == ("b and c: 2 rows",) and found["tags_everywhere"].details == ("all",)
    assert found["tags_never_alone"].details == (
        "b: 2 rows, always with all",
        "c: 2 rows, always with all",
        "d: 1 rows, always with all",
    )
    (finding,) = (f for f in examine_tags(np.array([[0], [0], [1]]), ("a",)) if f.count)
    assert (finding.name, finding.severity, finding.count) == ("without_tags", "look", 2)


def test_conflicting_copies_and_names_of_tags(tmp_path: Path) -> None:
    """A text with other tags, rare tags, and tags of nearly one name."""
    labels = [["alpha", "bravo", '"alpha,bravo"'][i % 3] for i in range(60)] + ["bravo", "alphas", "Bravo"]
    report = examined(tmp_path, labels, "multi-label", [*TEXTS[:60], TEXTS[0], *TEXTS[61:63]])
    found = by_name(report)
    assert found.keys() == {"conflicts", "duplicates", "few_rows", "uneven_classes", "similar_labels", "near_labels"}
    assert rows_of(report, "conflicts") == [("train", 0), ("train", 60)]
    assert found["conflicts"].suspects[0].reason == "labeled alpha, in train row 60 bravo"
    assert found["few_rows"].summary == "2 of 4 tags have fewer than 10 training rows"
    assert found["near_labels"].details == ("'alpha' (40 rows), 'alphas' (1 row)",)


def test_numbers_by_hand() -> None:
    """The quartiles of 0 to 100 are 25 and 75: from -125 to 225 nothing is far out."""
    numbers = np.array([*range(101), 225, 226.0, -126])
    trained = np.arange(104) < 101
    (finding,) = (f for f in examine_numbers(numbers, trained, "score") if f.count)
    assert finding.name == "outliers" and [s.index for s in finding.suspects] == [102, 103]
    assert finding.suspects[0].reason == "score 226" and "middle half of score, 25 to 75" in finding.summary
    stars = np.repeat([1.0, 2.0, 3.0], [30, 10, 10])
    found = {f.name: f for f in examine_numbers(stars, np.ones(50, bool), "stars") if f.count}
    assert found.keys() == {"few_values", "one_value"}
    assert found["few_values"].summary == "the 50 training rows have only 3 different numbers in stars: 1, 2, 3"
    assert found["one_value"].summary == "30 of 50 training rows have the number 1 in stars"
    tails = np.random.default_rng(0).standard_t(2, 500)
    assert "heavy_tails" in {f.name for f in examine_numbers(tails, np.ones(500, bool), "x") if f.count}


def test_copies_with_numbers_beyond_noise_conflict(tmp_path: Path) -> None:
    """Half a deviation is noise: 10 and 10.5 agree, 10 and 14 do not."""
    numbers = np.random.default_rng(0).normal(10, 2, 60).round(3).tolist()
    numbers[:2] = [10.0, 10.0]
    report = examined(tmp_path, [*map(str, numbers), "10.5", "14"], "regression", [*TEXTS[:60], TEXTS[0], TEXTS[1]])
    assert by_name(report).keys() == {"conflicts", "duplicates"}
    assert rows_of(report, "conflicts") == [("train", 1), ("train", 61)]
    assert by_name(report)["conflicts"].suspects[0].reason == "labeled 10, in train row 61 14"
