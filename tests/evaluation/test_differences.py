"""Differences and losses as text: points of a share, and R² and kappa as they are."""

import pytest

from hf_finetune.evaluation.differences import largest_loss, loss, points
from hf_finetune.hub.markdown import gain

DIFFERENCE = {"value": -0.02, "low": -0.03, "high": -0.01}


@pytest.mark.parametrize(
    ("metric", "as_points", "on_the_card", "lost", "most"),
    [
        (
            "macro_f1",
            "-2.0 points of macro_f1 [-3.0, -1.0]",
            "-2.0 [-3.0, -1.0] points of macro_f1",
            "1.26",
            "0.5 points of macro_f1",
        ),
        ("r2", "-0.020 of R² [-0.030, -0.010]", "-0.020 [-0.030, -0.010] of R²", "0.013", "0.005 of R²"),
        (
            "quadratic_kappa",
            "-0.020 of kappa [-0.030, -0.010]",
            "-0.020 [-0.030, -0.010] of kappa",
            "0.013",
            "0.005 of kappa",
        ),
    ],
)
def test_all_texts_have_one_unit(metric: str, as_points: str, on_the_card: str, lost: str, most: str) -> None:
    difference = {"metric": metric, **DIFFERENCE}
    assert (points(difference), gain(difference)) == (as_points, on_the_card)
    assert (loss(1.26, metric), largest_loss(0.5, metric)) == (lost, most)


def test_a_limit_is_not_rounded() -> None:
    assert largest_loss(1e-9, "accuracy") == "1e-09 points of accuracy"
