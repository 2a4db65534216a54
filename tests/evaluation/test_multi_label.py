"""Metrics of tags: the values of scikit-learn, intervals that cover, thresholds."""

import numpy as np
import pytest
from sklearn import metrics as sk

from hf_finetune.errors import InputError
from hf_finetune.evaluation.multi_label import (
    average_precision_by_row,
    best_thresholds,
    micro_f1_by_row,
    multi_label_intervals,
    multi_label_metrics,
)

HALF = np.full(5, 0.5)


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    hot = (rng.random((count, 5)) < [0.5, 0.3, 0.2, 0.1, 0.6]).astype(np.int8)
    # Rounded: many scores are equal.
    return hot, np.clip(0.35 * hot + 0.65 * rng.random((count, 5)), 0.01, 0.99).round(2)


@pytest.mark.parametrize("seed", range(5))
def test_the_values_are_those_of_scikit_learn(seed: int) -> None:
    hot, scores = rows(60, seed)
    predicted, values = scores >= 0.5, multi_label_metrics(hot, scores, HALF)
    expected = {
        "micro_f1": sk.f1_score(hot, predicted, average="micro"),
        "macro_f1": sk.f1_score(hot, predicted, average="macro"),
        "sample_f1": sk.f1_score(hot, predicted, average="samples", zero_division=1),
        "subset_accuracy": sk.accuracy_score(hot, predicted),
        "hamming_loss": sk.hamming_loss(hot, predicted),
        "mean_average_precision": sk.average_precision_score(hot, scores),
        "lrap": sk.label_ranking_average_precision_score(hot, scores),
        "log_loss": np.mean([sk.log_loss(y, p, labels=[0, 1]) for y, p in zip(hot.T, scores.T, strict=True)]),
    }
    assert values == pytest.approx(expected, abs=1e-12)


def test_by_hand() -> None:
    hot, scores = np.array([[1, 0], [1, 1]]), np.array([[0.9, 0.6], [0.4, 0.8]])
    values = multi_label_metrics(hot, scores, np.full(2, 0.5))
    # Predicted are both tags of the first row, and the second of the second: 2 of 3 are right, and 2 of 3 are found.
    assert values["micro_f1"] == pytest.approx(2 / 3)
    assert values["subset_accuracy"] == 0 and values["hamming_loss"] == 0.5
    assert values["sample_f1"] == pytest.approx(2 / 3)


def test_the_contributions_of_rows_have_the_score_as_their_mean() -> None:
    hot, scores = rows(80, 1)
    contributions = micro_f1_by_row(hot, scores >= 0.5)
    assert contributions.mean() == pytest.approx(sk.f1_score(hot, scores >= 0.5, average="micro"), abs=1e-12)


@pytest.mark.parametrize("decimals", [1, 9], ids=["ties", "no-ties"])
def test_contributions_to_the_mean_average_precision(decimals: int) -> None:
    """Their mean is the metric, and each is the change of the metric with the weight of its row."""
    hot, scores = rows(80, 1)
    hot[:, 4], scores = 0, scores.round(decimals)
    contributions = average_precision_by_row(hot, scores)
    weights, step = np.ones(80), 1e-6

    def weighted() -> float:
        return np.mean([sk.average_precision_score(hot[:, c], scores[:, c], sample_weight=weights) for c in range(4)])

    value = weighted()
    assert contributions.mean() == pytest.approx(value, abs=1e-12)
    for row in range(0, 80, 7):
        weights[row] += step
        assert contributions[row] - value == pytest.approx(80 * (weighted() - value) / step, abs=1e-3)
        weights[row] = 1


def test_intervals_cover() -> None:
    population = rows(20_000, 7)
    truth = multi_label_metrics(*population, HALF)
    misses = dict.fromkeys(truth, 0)
    for seed in range(60):
        chosen = np.random.default_rng(seed).integers(20_000, size=150)
        intervals = multi_label_intervals(*(each[chosen] for each in population), HALF, resamples=200)
        for name, interval in intervals.items():
            misses[name] += not interval.low <= truth[name] <= interval.high
    # 3 of 60 are expected; more than 9 happen once in 1,000 times.
    assert max(misses.values()) <= 9, misses


def test_thresholds_have_the_best_f1() -> None:
    hot, scores = rows(2_000, 3)
    thresholds = best_thresholds(hot, scores)
    for tag in range(5):
        best = max(sk.f1_score(hot[:, tag], scores[:, tag] >= t) for t in np.unique(scores[:, tag]))
        assert sk.f1_score(hot[:, tag], scores[:, tag] >= thresholds[tag]) == pytest.approx(best, abs=0.02)


def test_a_tag_of_few_rows_has_nearly_the_common_threshold() -> None:
    hot, scores = rows(400, 3)
    hot[:, 3] = 0
    hot[0, 3], scores[0, 3] = 1, 0.02
    thresholds = best_thresholds(hot, scores)
    assert 0.2 < thresholds[3] < 0.9


def test_a_tag_without_rows_leaves_the_means() -> None:
    hot, scores = rows(50, 2)
    hot[:, 0], scores[:, 0] = 0, 0.1
    interval = multi_label_intervals(hot, scores, HALF, resamples=100)["macro_f1"]
    assert interval.classes == (4, 5)
    assert interval.value == pytest.approx(sk.f1_score(hot[:, 1:], scores[:, 1:] >= 0.5, average="macro"))


@pytest.mark.parametrize(
    ("hot", "scores", "message"),
    [
        (np.zeros((0, 2)), np.zeros((0, 2)), "expected one for each"),
        (np.zeros((2, 2)), np.zeros((2, 3)), "expected one for each"),
        (np.full((2, 2), 2), np.zeros((2, 2)), "expected a 0 or 1 for each tag"),
        (np.zeros((2, 2)), np.full((2, 2), np.nan), "expected finite numbers"),
    ],
)
def test_bad_input(hot: np.ndarray, scores: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        multi_label_metrics(hot, scores, np.full(2, 0.5))
