"""The paired test of the ladder: its correction by hand, and its verdicts."""

import numpy as np
import pytest
from scipy.stats import t

from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.paired import corrected
from hf_finetune.search.ladder.judgement import Comparison, compare
from hf_finetune.tasks.single_label import SingleLabel

TASK = SingleLabel(("bad", "good"))


def scores(correct: int, rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores of a model that is right on the first rows."""
    labels = np.arange(rows) % 2
    predicted = np.where(np.arange(rows) < correct, labels, 1 - labels)
    return labels, np.eye(2)[predicted]


def test_the_interval_is_that_of_a_level_divided_by_the_comparisons() -> None:
    rows, half = 400, 0.05
    wide = corrected(Interval(0.1, 0.1 - half, 0.1 + half, rows), comparisons=5)
    expected = half * t.ppf(1 - 0.005, rows - 1) / t.ppf(0.975, rows - 1)
    assert wide.high - 0.1 == pytest.approx(expected) == 0.1 - wide.low
    one = Interval(0.1, 0.05, 0.15, rows)
    assert corrected(one, comparisons=1).low == pytest.approx(0.05)


def judged(scores_NC: np.ndarray, labels: np.ndarray, best_NC: np.ndarray) -> Comparison:
    return compare(TASK, labels, scores_NC, best_NC, against="head", comparisons=5)


def test_a_difference_that_one_test_would_call_better_is_undecided_for_five() -> None:
    labels, worse = scores(150)
    _, better = scores(156)
    alone, together = TASK.difference(labels, better, worse), judged(better, labels, worse)
    assert alone.low > 0 > together.difference.low and together.verdict == "no worse"
    assert judged(scores(180)[1], labels, worse).verdict == "better"
    plain = together.to_dict()
    assert plain["against"] == "head" and plain["metric"] == "accuracy" and plain["comparisons"] == 5
