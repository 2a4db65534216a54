"""Ordered classes where kappa and the correlation are 0 / 0."""

import numpy as np
import pytest

from hf_finetune.errors import InputError
from hf_finetune.tasks.ordinal import Ordinal

TASK = Ordinal(("poor", "fair", "good"))


def test_levels_that_do_not_differ_are_refused() -> None:
    """The chosen metric was missing as soon as every prediction was right, with a traceback."""
    with pytest.raises(InputError, match=r"^validation: every row has the level 'good', and kappa needs"):
        TASK.check_judged(np.full(4, 2), "validation")
    TASK.check_judged(np.array([0, 2]), "validation")
    TASK.check_judged(np.empty(0, dtype=np.int64), "test")


def test_an_epoch_of_equal_predictions_has_every_metric() -> None:
    """So that any of them may choose the best epoch."""
    values = TASK.epoch_values(np.array([0, 1, 2]), np.zeros((3, 3)))
    assert values.keys() == TASK.metrics.keys() and values["spearman"] == 0


def test_models_of_one_level_are_compared_by_hand() -> None:
    """Evaluated rows of a single level: an all-right model has 1, one that is wrong somewhere 0."""
    labels, right = np.array([1, 1]), np.eye(3)[[1, 1]]
    assert TASK.difference(labels, right, right).value == 0
    assert TASK.difference(labels, right, np.eye(3)[[1, 2]]).value == 1
