"""Where R² and correlations have no value."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from hf_finetune.errors import InputError
from hf_finetune.tasks.regression import Regression

TASK = Regression(("score",))


def test_rows_of_one_number_judge_nothing() -> None:
    """They were a KeyError at the end of the first epoch."""
    with pytest.raises(InputError, match=r"validation: every row has 1\.5 in 'score', .* other rows by --validation"):
        TASK.check_judged(np.full((4, 1), 1.5), "validation")
    TASK.check_judged(np.array([[1.0], [2.0]]), "validation")
    TASK.check_judged(np.empty((0, 1)), "test")


def test_a_network_that_predicts_one_number_has_no_correlation() -> None:
    """An epoch of it was a KeyError where evaluate.metric is a correlation."""
    values = TASK.epoch_values(np.array([[1.0], [2.0]]), np.array([[0.5], [0.5]]))
    assert values["spearman"] == values["pearson"] == 0 and values["r2"] < 0


def test_correlations_are_compared_as_well() -> None:
    """By row; of the mean, which does not vary, there is none."""
    numbers = np.random.default_rng(0).normal(size=(200, 2))
    task, near, far = Regression(("a", "b")), numbers + 0.1, numbers[::-1]
    found = task.compare(numbers, near, far)
    (further,) = found["further"]
    assert found["metric"] == "r2" and further["metric"] == "spearman" and further["verdict"] == "better"
    expected = 1 - np.mean([spearmanr(numbers[:, i], far[:, i]).statistic for i in range(2)])
    assert further["value"] == pytest.approx(expected, abs=1e-12)
    assert "further" not in task.compare(numbers, near, np.zeros_like(numbers))
