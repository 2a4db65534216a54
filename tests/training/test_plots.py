"""Learning curves and schedule, read from the drawn figure."""

from __future__ import annotations

from matplotlib.figure import Figure

from hf_finetune.training.plots import learning_curves, pretraining_curves, schedule
from hf_finetune.utils.plots import Draw

LINES = [
    {"step": 1, "loss": 0.9, "learning_rate": 0.0},
    {"step": 2, "eval_log_loss": 0.7, "eval_accuracy": 0.5},
    {"step": 10, "loss": 0.4, "learning_rate": 1e-4},
    {"step": 10, "train_runtime": 3.0},
]


def curves(draw: Draw) -> list[dict[str, list[list[float]]]]:
    figure = Figure()
    draw(figure)
    return [{line.get_label(): line.get_xydata().tolist() for line in axes.lines} for axes in figure.axes]


def test_learning_curves() -> None:
    top, bottom = curves(learning_curves(LINES, "accuracy", best_step=2))
    assert top["training loss"] == [[1, 0.9], [10, 0.4]] and top["validation log loss"] == [[2, 0.7]]
    assert bottom["validation accuracy"] == [[2, 0.5]]
    assert [[2, 0], [2, 1]] in top.values() and [[2, 0], [2, 1]] in bottom.values(), "the best step is marked"


def test_numbers_have_no_log_loss() -> None:
    figure = Figure()
    learning_curves([{"step": 1, "loss": 0.9}, {"step": 2, "eval_r2": 0.5}], "r2")(figure)
    top, bottom = figure.axes
    assert [line.get_label() for line in top.lines] == ["training loss"] and top.get_ylabel() == "loss"
    assert bottom.get_ylabel() == "validation r2"


def test_pretraining_and_schedule() -> None:
    (axes,) = curves(pretraining_curves([*LINES, {"step": 10, "eval_held_out_loss": 0.3}], "held_out_loss"))
    assert axes["held-out loss"] == [[10, 0.3]]
    (axes,) = curves(schedule(LINES))
    assert list(axes.values()) == [[[1, 0.0], [10, 1e-4]]]
