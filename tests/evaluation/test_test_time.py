"""Test-time augmentation: mean predictions of several views, and their gain."""

from typing import Any

import numpy as np
import pytest

from hf_finetune.evaluation.metrics import classification_metrics
from hf_finetune.evaluation.paired import paired_difference, verdict
from hf_finetune.evaluation.test_time import describe, mean_probabilities
from hf_finetune.inference import evaluation
from hf_finetune.tasks.single_label import SingleLabel


def probabilities(predicted: list[int]) -> np.ndarray:
    return np.where(np.arange(2) == np.array(predicted)[:, None], 0.75, 0.25)


def gain(with_views: np.ndarray, without: np.ndarray, labels: Any) -> dict[str, Any]:
    return evaluation._gain(SingleLabel(("a", "b")), np.asarray(labels), with_views, without, resamples=100)


def test_the_mean_is_that_of_the_probabilities() -> None:
    """The mean of logits would give the first class, of which one view is certain."""
    views = [np.array([[0.98, 0.02]]), np.array([[0.2, 0.8]]), np.array([[0.2, 0.8]])]
    assert np.allclose(mean_probabilities(iter(views)), [[0.46, 0.54]], rtol=0, atol=1e-15)
    logits = np.log(views).mean(axis=0)
    assert logits.argmax() == 0 and mean_probabilities(views).argmax() == 1
    assert views[0].tolist() == [[0.98, 0.02]], "the first view is still to be compared with the mean"


def test_one_view_is_itself() -> None:
    assert mean_probabilities([probabilities([0, 1])]).tolist() == [[0.75, 0.25], [0.25, 0.75]]


def test_the_gain_is_the_difference_of_accuracy_on_the_same_rows() -> None:
    labels = [0, 1] * 5
    with_views, without = probabilities([0, 1] * 4 + [0, 0]), probabilities([0, 1] * 3 + [1, 1, 0, 0])
    result = gain(with_views, without, labels)
    expected = paired_difference([1] * 9 + [0], [1] * 6 + [0, 1, 1, 0])
    assert result["difference"] == {**expected.to_dict(), "verdict": verdict(expected), "metric": "accuracy"}
    assert result["difference"]["value"] == pytest.approx(0.1) and result["difference"]["n"] == 10
    metrics = {name: cell["value"] for name, cell in result["without"].items()}
    assert metrics["accuracy"] == 0.8
    assert metrics == pytest.approx(classification_metrics(np.array(labels), without))


@pytest.mark.parametrize(("better", "worse", "verdict"), [(30, 0, "better"), (0, 0, "no worse"), (0, 30, "worse")])
def test_the_verdict_is_of_the_views(better: int, worse: int, verdict: str) -> None:
    rows = 1000
    with_views, without = np.zeros(rows, int), np.zeros(rows, int)
    without[:better], with_views[:worse] = 1, 1
    # The bootstrap wants two classes.
    labels = np.append(np.zeros(rows - 1, int), 1)
    result = gain(probabilities(list(with_views)), probabilities(list(without)), labels)
    assert result["difference"]["verdict"] == verdict
    assert result["difference"]["value"] == pytest.approx((better - worse) / rows)


def test_one_line_tells_gain_and_cost() -> None:
    difference = {"value": 0.0123, "low": -0.004, "high": 0.0286, "n": 500, "verdict": "no worse"}
    assert describe({"number": 4, "difference": difference, "cost": 4.06}) == (
        "accuracy with 4 views minus that of the unchanged rows: +0.012 [-0.004, +0.029], no worse; "
        "4.1 times the seconds"
    )
