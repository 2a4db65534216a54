"""Metrics of numbers: the values of scikit-learn and scipy, and intervals that cover."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from hf_finetune.errors import InputError
from hf_finetune.evaluation.regression import (
    r2_by_row,
    regression_intervals,
    regression_metrics,
    spearman_by_row,
)


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = 100 + 5 * rng.normal(size=count)
    return targets, (targets + 4 * rng.normal(size=count)).round()


@pytest.mark.parametrize("seed", range(5))
def test_the_values_are_those_of_the_libraries(seed: int) -> None:
    targets, predicted = rows(70, seed)
    expected = {
        "r2": sk.r2_score(targets, predicted),
        "spearman": stats.spearmanr(targets, predicted)[0],
        "pearson": stats.pearsonr(targets, predicted)[0],
        "mae": sk.mean_absolute_error(targets, predicted),
        "rmse": sk.root_mean_squared_error(targets, predicted),
    }
    assert regression_metrics(targets, predicted) == pytest.approx(expected, abs=1e-12)
    assert r2_by_row(targets, predicted).mean() == pytest.approx(expected["r2"], abs=1e-12)


def test_by_hand() -> None:
    values = regression_metrics([1.0, 3.0], [2.0, 3.0])
    assert values["r2"] == 0.5 and values["mae"] == 0.5 and values["rmse"] == pytest.approx(0.5**0.5)


def test_a_constant_has_no_correlation() -> None:
    values = regression_metrics([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    assert set(values) == {"r2", "mae", "rmse"} and values["r2"] == 0
    assert set(regression_intervals([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], resamples=100)) == set(values)


def test_intervals_cover() -> None:
    population = rows(20_000, 7)
    truth = regression_metrics(*population)
    misses = dict.fromkeys(truth, 0)
    for seed in range(100):
        chosen = np.random.default_rng(seed).integers(20_000, size=150)
        for name, interval in regression_intervals(*(each[chosen] for each in population), resamples=200).items():
            misses[name] += not interval.low <= truth[name] <= interval.high
    # 5 of 100 are expected; more than 12 happen once in 1,000 times.
    assert max(misses.values()) <= 12, misses


@pytest.mark.parametrize(
    ("targets", "predicted", "message"),
    [
        ([], [], "expected one for each"),
        ([1.0], [1.0, 2.0], "expected one for each"),
        ([1.0, float("nan")], [1.0, 2.0], "targets: expected finite numbers, got nan"),
        ([1.0, 2.0], [1.0, float("inf")], "predictions: expected finite numbers, got inf"),
    ],
)
def test_bad_input(targets: list[float], predicted: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        regression_metrics(targets, predicted)


def test_metrics_of_several_targets_are_their_means() -> None:
    rng = np.random.default_rng(3)
    targets, predicted = rng.normal(size=(2, 50, 3))
    predicted += targets
    values = regression_metrics(targets, predicted)
    assert values["r2"] == pytest.approx(sk.r2_score(targets, predicted), abs=1e-12)
    assert values["mae"] == pytest.approx(sk.mean_absolute_error(targets, predicted), abs=1e-12)
    assert values["rmse"] == pytest.approx(sk.root_mean_squared_error(targets, predicted), abs=1e-12)
    each = [stats.spearmanr(t, p).statistic for t, p in zip(targets.T, predicted.T, strict=True)]
    assert values["spearman"] == pytest.approx(np.mean(each), abs=1e-12)
    each = [stats.pearsonr(t, p).statistic for t, p in zip(targets.T, predicted.T, strict=True)]
    assert values["pearson"] == pytest.approx(np.mean(each), abs=1e-12)
    assert r2_by_row(targets, predicted).mean() == pytest.approx(values["r2"], abs=1e-12)


def test_the_rows_contribute_to_spearman_as_leaving_them_out_says() -> None:
    rng = np.random.default_rng(4)
    one = rng.integers(0, 5, 300)  # with many ties
    other = one + rng.normal(size=300)
    rows = spearman_by_row(one, other)
    assert rows.mean() == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-12)
    without = [stats.spearmanr(np.delete(one, i), np.delete(other, i)).statistic for i in range(100)]
    jackknife = 300 * rows.mean() - 299 * np.array(without)
    assert np.corrcoef(rows[:100], jackknife)[0, 1] > 0.999 and rows[:100].std() == pytest.approx(
        jackknife.std(), rel=0.05
    )


def test_intervals_of_means_cover_in_a_simulation() -> None:
    """95% of the intervals of a mean over two targets hold the true value, give or take the error of 300 draws."""
    rng, covered = np.random.default_rng(5), dict.fromkeys(("r2", "spearman", "pearson", "mae"), 0)
    # Of two standard normal numbers with correlation 0.8 and 0.5.
    mixing = np.array([0.8, 0.5])
    truth = {
        "pearson": mixing.mean(),
        "spearman": (6 / np.pi * np.arcsin(mixing / 2)).mean(),
        "r2": (mixing * 2 - 1).mean(),
        "mae": (np.sqrt(2 * (1 - mixing)) * np.sqrt(2 / np.pi)).mean(),
    }
    for _ in range(300):
        targets, noise = rng.normal(size=(2, 150, 2))
        predicted = mixing * targets + np.sqrt(1 - mixing**2) * noise
        for name, interval in regression_intervals(targets, predicted, resamples=200).items():
            if name in covered:
                covered[name] += interval.low <= truth[name] <= interval.high
    assert all(0.90 <= count / 300 <= 0.985 for count in covered.values()), covered
