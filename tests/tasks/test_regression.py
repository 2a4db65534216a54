"""Where R² and correlations have no value."""

import numpy as np
import pytest

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
