"""Doubts: when each is raised, its numbers by hand, and that its remedy names real flags."""

import re
from dataclasses import replace
from typing import Any

import pytest
from helpers.tiny import tiny_text_checkpoint

from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.data.truncation import Truncation
from hf_finetune.evaluation import doubts
from hf_finetune.evaluation.doubts import Doubt, Training
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.per_class import finds_alone, per_class
from hf_finetune.evaluation.report import doubts_text

NAMES = ("bad", "good", "neutral")
# Of 45 rows of neutral none is recognized.
TEST = per_class([0] * 50 + [1] * 50 + [2] * 45, [0] * 60 + [1] * 85, NAMES)
TRAINING = Training({"bad": 600, "good": 580, "neutral": 30}, epochs=3)


def test_a_class_that_is_never_predicted() -> None:
    (doubt,) = doubts.unrecognized({"test": TEST}, TRAINING)
    assert doubt.name == "never_predicted"
    assert doubt.message == (
        "'neutral' is never predicted: 0 of 45 test rows of it are recognized; it has 30 of 1,210 training rows, "
        "'bad' has 600"
    )
    assert doubt.remedy.startswith("--objective.class-weights Balanced; more --epochs (now 3) or a higher --train.lear")
    # A row may have several tags.
    (doubt,) = doubts.unrecognized({"test": TEST}, replace(TRAINING, rows=700))
    assert "it has 30 of 700 training rows" in doubt.message
    (doubt,) = doubts.unrecognized({"test": TEST}, weights=None)
    assert doubt.remedy == "train for more --epochs, or with more such rows"


@pytest.mark.parametrize(
    ("training", "remedy"),
    [
        (Training({"bad": 600, "good": 580, "neutral": 5}, 1), "label more rows of such classes, or merge them"),
        (Training({"bad": 600, "good": 580, "neutral": 500}, 1), "more --epochs (now 1) or a higher"),
        (Training({"bad": 600, "good": 580, "neutral": 30}, 1, weighted=True), "more --epochs (now 1) or a higher"),
        (None, "train with --objective.class-weights Balanced"),
    ],
)
def test_the_remedy_is_that_of_the_cause(training: Training | None, remedy: str) -> None:
    assert doubts.unrecognized({"test": TEST}, training)[0].remedy.startswith(remedy)


def test_a_class_that_is_predicted_in_another_split_or_has_no_rows_is_no_doubt() -> None:
    others = per_class([0, 1, 2], [0, 1, 2], NAMES)
    assert doubts.unrecognized({"validation": others, "test": TEST}, TRAINING) == ()
    assert doubts.unrecognized({"test": per_class([0, 1], [0, 1], NAMES)}, TRAINING) == ()
    assert doubts.unrecognized({"test": TEST}, Training({"bad": 600, "good": 580, "neutral": 0}, 3)) == ()


def test_a_class_that_is_predicted_for_other_rows_only() -> None:
    labels, predicted = [0] * 50 + [2] * 12, [0] * 47 + [2] * 3 + [0] * 12
    (doubt,) = doubts.unrecognized({"test": per_class(labels, predicted, NAMES)}, TRAINING)
    assert doubt.name == "never_right"
    assert doubt.message == (
        "'neutral' is predicted for 3 rows of other classes, and for 0 of 12 test rows of it; it has 30 of 1,210 "
        "training rows, 'bad' has 600"
    )
    assert doubt.remedy.startswith("--objective.class-weights Balanced")
    few = per_class(labels[:59], predicted[:59], NAMES)
    assert doubts.unrecognized({"test": few}, TRAINING) == ()
    # Right once in another split.
    assert doubts.unrecognized({"validation": per_class([2], [2], NAMES), "test": TEST}, TRAINING) == ()


def test_many_classes_are_counted() -> None:
    names = [f"c{i}" for i in range(9)]
    message = doubts.unrecognized({"test": per_class(range(9), [0] * 9, names)})[0].message
    assert message == (
        "'c1', 'c2', 'c3', 'c4', 'c5' and 3 more are never predicted: 0 of 8 test rows of them are recognized"
    )


def test_a_class_that_a_split_lacks() -> None:
    whole = Interval(1.0, 0.9, 1.0, 4)
    metrics = {"macro_f1": Interval(1.0, 0.9, 1.0, 4, (2, 3)), "accuracy": whole, "balanced_accuracy": whole}
    scores = per_class([0, 0, 1, 1], [0, 0, 1, 1], NAMES)
    (doubt,) = doubts.missing_classes("validation", scores, metrics, remedy="add some")
    assert doubt == Doubt(
        "missing_class",
        "no validation row is of 'neutral': nothing is known about recognizing it; "
        "macro_f1 is a mean over 2 of 3 classes, roc_auc is not defined",
        "add some",
    )
    assert doubts.missing_classes("test", TEST, metrics, remedy="") == ()
    # Tags have neither accuracy nor roc_auc.
    (doubt,) = doubts.missing_classes("validation", scores, {"micro_f1": metrics["accuracy"]}, remedy="")
    assert doubt.message == "no validation row is of 'neutral': nothing is known about recognizing it"


def test_few_rows() -> None:
    """An interval of twice the width that is allowed needs four times the rows."""
    (doubt,) = doubts.few_rows(
        "validation", "accuracy", Interval(0.9, 0.82, 0.94, 100), purpose="to choose by", remedy="name {rows} rows"
    )
    assert doubt.message == (
        "100 validation rows are few to choose by: accuracy 0.900 has a 95% interval of ±0.060; "
        "about 400 rows give ±0.03"
    )
    assert doubt.remedy == "name 400 rows"
    assert doubts.few_rows("test", "accuracy", Interval(0.9, 0.88, 0.92, 900), purpose="", remedy="") == ()
    # Those of the quickstart, which only choose its epoch.
    chosen_by = "validation", "accuracy", Interval(0.873, 0.831, 0.908, 306)
    assert doubts.few_rows(*chosen_by, purpose="", remedy="")
    assert doubts.few_rows(*chosen_by, purpose="", remedy="", widest=doubts.WIDEST_OF_CHOICE) == ()


def baseline(verdict: str) -> dict[str, Any]:
    difference = {"value": 0.004, "low": -0.012, "high": 0.02, "n": 500, "verdict": verdict}
    return {"linear": {"name": "tfidf+logistic", "difference": difference}}


@pytest.mark.parametrize(
    ("verdict", "name"),
    [
        ("worse", "worse_than_baseline"),
        ("undecided", "no_better_than_baseline"),
        ("no worse", "no_better_than_baseline"),
    ],
)
def test_a_baseline_that_is_not_beaten(verdict: str, name: str) -> None:
    (doubt,) = doubts.baseline_doubts(baseline(verdict), remedy="r")
    assert doubt.name == name and doubt.message.endswith(
        "the linear baseline (tfidf+logistic): +0.4 points of accuracy [-1.2, +2.0] on the same 500 rows"
    )
    assert doubts.baseline_doubts(baseline("better"), remedy="r") == ()


def test_what_only_a_baseline_finds() -> None:
    mine, linear = (per_class([0, 0, 1, 2, 2], predicted, NAMES) for predicted in ([0] * 5, [0, 0, 0, 2, 0]))
    alone = finds_alone(mine, linear)
    assert alone == {NAMES[2]: {"rows": 2, "right": 1}}
    found = baseline("better")
    found["linear"]["finds_alone"] = alone
    (doubt,) = doubts.baseline_doubts(found, remedy="r")
    name = NAMES[2]
    assert doubt.name == "only_baseline_finds" and doubt.remedy.endswith("--method classical")
    assert doubt.message == (
        f"the linear baseline (tfidf+logistic) finds what this model never predicts: '{name}' (1 of 2)"
    )


def test_truncated_texts() -> None:
    (doubt,) = doubts.truncation_doubts(Truncation(128, 0.3, 300, 0.99, 1.84, "--max-length 300"))
    assert (doubt.message, doubt.remedy) == (
        "30.0% of the training texts are cut off at 128 tokens",
        "--max-length 300 would hold 99.0% of them, at 1.8 times the tokens; --long head-tail, sliding or chunk reads "
        "more of them (`plan` has the costs)",
    )
    windows = Truncation(128, 0.3, 300, 0.99, 1.84, "--data.long.most-windows 3", has_other_ways=False)
    (doubt,) = doubts.truncation_doubts(windows)
    assert doubt.remedy == "--data.long.most-windows 3 would hold 99.0% of them, at 1.8 times the tokens"
    (doubt,) = doubts.truncation_doubts(Truncation(512, 0.3, 512, 0.7, 1.0))
    assert doubt.remedy.startswith("512 tokens are the most that this checkpoint reads: choose one that reads more")
    assert Truncation(64, 0.003, 64, 0.997, 1.0).proposal == "64 tokens hold 99.7% of them", "more could be read"
    assert doubts.truncation_doubts(Truncation(128, 0.01, 128, 0.99, 1.0)) == doubts.truncation_doubts(None) == ()


def test_scored_rows_that_were_trained_on() -> None:
    (doubt,) = doubts.leaked_rows(551, 612)
    assert doubt.message == "551 of these 612 rows are training rows: the metrics are too good"
    assert doubts.leaked_rows(0, 612) == ()


def test_remedies_name_real_flags(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("flags")
    (folder / "rows.csv").write_text("text,label\na,x\nb,y\n")
    remedies = " ".join(
        [
            doubts.unrecognized({"test": TEST}, TRAINING)[0].remedy,
            doubts.truncation_doubts(Truncation(128, 0.3, 300, 0.99, 1.8, "--max-length 300"))[0].remedy,
        ]
    )
    flags = {flag: value for flag, value in re.findall(r"(--[\w.-]+)(?: (\d+|Balanced|head-tail))?", remedies)}
    assert flags.keys() == {"--objective.class-weights", "--epochs", "--train.learning-rate", "--max-length", "--long"}
    arguments = [word for flag, value in flags.items() for word in (flag, value or "1")]
    checkpoint = str(tiny_text_checkpoint(folder / "bert"))
    job = parse_train(TrainJob, [str(folder / "rows.csv"), "--model", checkpoint, *arguments], "hf-finetune train")
    assert type(job.recipe.objective.class_weights).__name__ == "Balanced" and job.recipe.data.max_length == 300


def test_text() -> None:
    text = doubts_text([Doubt("few_rows", "word " * 20 + "end", "--flag").to_dict()], width=80)
    assert text.splitlines()[0] == "doubts" and text.endswith("\n  remedy: --flag")
    assert max(map(len, text.splitlines())) <= 80 and doubts_text([]) == ""
