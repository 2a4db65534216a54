"""The paired test of the ladder: its correction by hand, and its verdicts."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.paired import association, corrected
from hf_finetune.search.ladder.judgement import Comparison, compare
from hf_finetune.tasks.single_label import SingleLabel

TASK = SingleLabel(("bad", "good"))
CONSTANT = {"is_constant": True, "inputs": lambda: np.arange(200)}


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


def rare(found: int, rows: int = 200, of_class: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels with a rare class, scores of a model that finds some of its rows and errs nowhere, and the majority."""
    labels = np.repeat([0, 1], [rows - of_class, of_class])
    scores_NC = np.tile([0.95, 0.05], (rows, 1))
    scores_NC[rows - found :] = [0.2, 0.8]
    return labels, scores_NC, np.tile([1.0, 0.0], (rows, 1))


def test_the_p_value_is_the_share_of_shuffles_that_fit_as_well() -> None:
    log_NC = np.log([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.8, 0.2]])
    # The one row of class 1 has the second highest score of the four: two of four places fit as well.
    assert association([0, 0, 1, 0], log_NC, enough=1_500) == pytest.approx(1 / 2, abs=0.04)
    assert association([0, 1, 0, 0], log_NC, enough=1_500) == pytest.approx(1 / 4, abs=0.04)
    # Sooner, where a hundred shuffles fit as well.
    soon = association([0, 0, 1, 0], log_NC)
    assert soon == association([0, 0, 1, 0], log_NC) == pytest.approx(1 / 2, abs=0.1)


def test_a_model_that_finds_a_rare_class_beats_no_majority_and_tells_classes_apart() -> None:
    labels, scores_NC, majority_NC = rare(found=4)
    found = compare(TASK, labels, scores_NC, majority_NC, against="majority", comparisons=5, **CONSTANT)
    assert found.verdict == "undecided" and found.association == 0.0005 and found.tells_apart
    assert found.to_dict()["tells_apart"] and found.to_dict()["association"] == 0.0005
    # So many comparisons need a smaller p-value.
    assert not replace(found, comparisons=26).tells_apart
    # Class frequencies are no signal, nor are scores that know no label.
    frequencies_NC = np.tile([0.95, 0.05], (200, 1))
    noise = [np.random.default_rng(seed).dirichlet([19, 1], 200) for seed in range(20)]
    for scores_NC in (frequencies_NC, *noise):
        found = compare(TASK, labels, scores_NC, majority_NC, against="majority", comparisons=5, **CONSTANT)
        assert found.association is not None and not found.tells_apart
    assert association(labels, np.log(frequencies_NC)) == 1


def test_equal_inputs_are_one_row_of_the_permutation() -> None:
    """Chance decides on 20 texts, not on ten times as many."""
    labels = np.tile(np.arange(20) % 2, 10)
    scores_NC = np.where(labels[:, None] == [0, 1], 0.6, 0.4)
    scores_NC[np.arange(200) % 20 > 5] = 0.5
    first_N = np.tile(np.arange(20), 10)
    assert TASK.association(labels, scores_NC, lambda: np.arange(200)) == 0.0005
    once = TASK.association(labels, scores_NC, lambda: first_N)
    assert once == TASK.association(labels[:20], scores_NC[:20], lambda: np.arange(20)) > 0.0005


@pytest.mark.parametrize("unseen", [1e-12, 0.3])
def test_a_class_that_no_model_of_its_fold_has_seen_is_no_signal(unseen: float) -> None:
    """Out of fold, where ten classes have a single row, and the scores say no more than in which fold it is."""
    task, folds_N = SingleLabel(tuple(f"class {number}" for number in range(12))), np.arange(200) % 5
    labels = np.concatenate([np.arange(190) % 2, np.arange(2, 12)])
    scores_NC = np.full((200, 12), 0.002)
    scores_NC[:, 0], scores_NC[:, 1] = 0.49, 0.49
    for label, row in zip(range(2, 12), range(190, 200), strict=True):
        scores_NC[folds_N == folds_N[row], label] = unseen
    log_NC = np.log(scores_NC)
    assert abs(association(labels, log_NC) - 0.5) > 0.4
    assert task.association(labels, scores_NC, lambda: np.arange(200)) == 1
    # Neither is one whose rows are all the same.
    twice, same = np.append(labels, 2), np.append(np.arange(200), 190)
    assert task.association(twice, np.vstack([scores_NC, scores_NC[190]]), lambda: same) == 1
    # What is found of a class of several rows is found beside them, too.
    scores_NC[labels == 1, 1] = 0.6
    assert task.association(labels, scores_NC, lambda: np.arange(200)) == 0.0005


def test_what_is_proven_by_the_accuracy_or_compared_with_a_model_is_not_shuffled() -> None:
    labels, better_NC = scores(180)
    proven = compare(TASK, labels, better_NC, scores(50)[1], against="majority", comparisons=2, **CONSTANT)
    assert proven.verdict == "better" and proven.association is None
    of_model = judged(better_NC, labels, scores(175)[1])
    assert of_model.association is None and "tells_apart" not in of_model.to_dict()
