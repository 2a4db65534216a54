"""Metrics of numbers: the values of scikit-learn and scipy, and intervals that cover."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from hf_finetune.errors import InputError
from hf_finetune.evaluation.regression import r2_by_row, regression_intervals, regression_metrics


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
