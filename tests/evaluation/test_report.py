"""The table of metrics and the most confused classes."""

import dataclasses

import pytest

from hf_finetune.errors import InputError
from hf_finetune.evaluation.report import comparison_table, confusion, rungs_table


def interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": 10}


ROWS = [
    {"name": "this model", "accuracy": interval(0.873, 0.861, 0.885), "log_loss": interval(0.4, 0.31, 10.25)},
    {"name": "tfidf+logistic", "accuracy": interval(0.79, 0.7, 0.8), "matthews": interval(0.05, -0.1, 0.2)},
    {"name": "majority", "accuracy": interval(0.5, 0.45, 0.55), "log_loss": interval(0.69, 0.68, 0.7)},
]


TABLE = """\
                     this model         tfidf+logistic              majority
accuracy   0.873 [0.861, 0.885]   0.790 [0.700, 0.800]  0.500 [0.450, 0.550]
log_loss  0.400 [0.310, 10.250]                         0.690 [0.680, 0.700]
matthews                         0.050 [-0.100, 0.200]"""


RUNGS = """\
rung            accuracy (validation)  seconds
tfidf+logistic   0.790 [0.700, 0.800]        1  better than majority
lora                                            left: full fine-tuning needs the
                                                time that is left"""


def test_rungs_fit_into_a_line() -> None:
    linear = {"name": "linear", "title": "tfidf+logistic", "folder": "2-linear", "seconds": 0.7, "metrics": ROWS[1]}
    lora = {"name": "lora", "title": None, "folder": None, "seconds": 0.0, "metrics": {}}
    why = "better than majority", "left: full fine-tuning needs the time that is left"
    rungs = [{**rung, "reason": reason} for rung, reason in zip((linear, lora), why, strict=True)]
    assert rungs_table(rungs, "accuracy", width=80) == RUNGS


def test_table() -> None:
    assert comparison_table(ROWS, width=80) == TABLE


def test_chosen_metrics_of_more_models_than_fit() -> None:
    assert (
        comparison_table(ROWS[1:], metrics=["accuracy"], width=40)
        == """\
                tfidf+logistic
accuracy  0.790 [0.700, 0.800]
                      majority
accuracy  0.500 [0.450, 0.550]"""
    )


def test_a_mean_over_fewer_classes_has_a_line() -> None:
    table = comparison_table([{"name": "m", "macro_f1": {**interval(0.8, 0.7, 0.9), "classes": [2, 3]}}])
    assert table.splitlines()[-1] == "macro_f1: a mean over 2 of 3 classes"


def test_no_rows() -> None:
    assert comparison_table([]) == ""


def test_most_confused_pairs() -> None:
    labels = [0, 0, 0, 0, 1, 1, 1, 2, 2]
    predicted = [1, 1, 2, 0, 0, 0, 1, 1, 2]
    first, second, third, fourth = confusion(labels, predicted, ["cat", "dog", "fox"])
    assert dataclasses.astuple(first) == ("cat", "dog", 2, 4)
    assert dataclasses.astuple(second) == ("dog", "cat", 2, 3)
    assert (third.label, third.predicted, fourth.label, fourth.predicted) == ("cat", "fox", "fox", "dog")
    assert confusion(labels, predicted, ["cat", "dog", "fox"], most=1) == (first,)


def test_nothing_is_confused() -> None:
    assert confusion([0, 1], [0, 1], ["a", "b"]) == ()


def test_ids_without_a_name_are_refused() -> None:
    with pytest.raises(InputError, match="0 to 1, got 2"):
        confusion([0, 1], [0, 2], ["a", "b"])
