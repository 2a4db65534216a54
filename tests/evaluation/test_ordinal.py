"""Metrics of ordered classes: by hand, equal to the libraries', and intervals that cover."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from hf_finetune.evaluation.ordinal import kappa_by_row, ordinal_intervals, ordinal_metrics
from hf_finetune.evaluation.residuals import residuals_of_levels, residuals_of_target


def rows(count: int, seed: int, levels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, levels, count)
    logits = -((np.arange(levels) - (labels + rng.normal(size=count))[:, None]) ** 2) / 2
    scores = np.exp(logits)
    return labels, scores / scores.sum(axis=1, keepdims=True)


def test_by_hand() -> None:
    """Levels 0 0 1 2, predicted 0 1 1 0: squares 0 1 0 4, of independent rows 0.6875 + 0.75 - 2 x 0.75 x 0.5."""
    labels, predicted = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0])
    values = ordinal_metrics(labels, np.eye(3)[predicted])
    expected_difference = 5 / 4 + 2 / 4 - 2 * (3 / 4) * (2 / 4)
    assert values["quadratic_kappa"] == pytest.approx(1 - (5 / 4) / expected_difference, abs=1e-12)
    assert (values["mae"], values["accuracy"], values["within_one"]) == (0.75, 0.5, 0.75)


@pytest.mark.parametrize("seed", range(5))
def test_the_values_are_those_of_the_libraries(seed: int) -> None:
    labels, scores = rows(80, seed)
    predicted = scores.argmax(axis=1)
    expected = {
        "quadratic_kappa": sk.cohen_kappa_score(labels, predicted, weights="quadratic", labels=range(5)),
        "mae": sk.mean_absolute_error(labels, predicted),
        "accuracy": sk.accuracy_score(labels, predicted),
        "within_one": (abs(labels - predicted) <= 1).mean(),
        "spearman": stats.spearmanr(labels, scores @ np.arange(5)).statistic,
        "log_loss": sk.log_loss(labels, scores, labels=range(5)),
    }
    assert ordinal_metrics(labels, scores) == pytest.approx(expected, abs=1e-12)
    assert kappa_by_row(labels, predicted).mean() == pytest.approx(expected["quadratic_kappa"], abs=1e-12)


def test_the_rows_contribute_to_kappa_as_leaving_them_out_says() -> None:
    labels, scores = rows(300, 7)
    predicted = scores.argmax(axis=1)
    contributions = kappa_by_row(labels, predicted)
    without = [
        sk.cohen_kappa_score(np.delete(labels, i), np.delete(predicted, i), weights="quadratic") for i in range(100)
    ]
    jackknife = 300 * contributions.mean() - 299 * np.array(without)
    assert np.corrcoef(contributions[:100], jackknife)[0, 1] > 0.999


def test_one_level_has_neither_kappa_nor_correlation() -> None:
    assert set(ordinal_metrics([1, 1], np.eye(3)[[1, 1]])) == {"mae", "accuracy", "within_one", "log_loss"}


def test_intervals_cover_in_a_simulation() -> None:
    labels, scores = rows(100_000, 8)
    truth = ordinal_metrics(labels, scores)
    rng, covered = np.random.default_rng(9), dict.fromkeys(truth, 0)
    for _ in range(300):
        drawn = rng.integers(0, len(labels), 150)
        for name, interval in ordinal_intervals(labels[drawn], scores[drawn], resamples=200).items():
            covered[name] += interval.low <= truth[name] <= interval.high
    assert all(0.91 <= count / 300 <= 0.99 for count in covered.values()), covered


def test_residuals_by_hand() -> None:
    first, second = residuals_of_levels(("low", "mid", "high"), np.array([0, 0, 2]), np.array([0, 2, 1]))
    assert (first.range, first.rows, first.mean, first.mean_absolute) == ("low", 2, 1.0, 1.0)
    assert (second.range, second.rows, second.mean, second.mean_absolute) == ("high", 1, -1.0, 1.0)
    targets = np.arange(10.0)
    parts = [*residuals_of_target("x", targets, np.full(10, 4.5))]
    assert [part.range for part in parts] == ["0 to 1", "2 to 3", "4 to 5", "6 to 7", "8 to 9"]
    assert [part.mean for part in parts] == [4.0, 2.0, 0.0, -2.0, -4.0]  # toward the mean
    assert [part.range for part in residuals_of_target("x", np.array([1.0, 1, 1, 1, 2]), np.zeros(5))] == ["1", "2"]
