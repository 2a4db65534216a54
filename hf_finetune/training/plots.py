"""Charts of a training: its losses and validation metric, its learning rate, and the range test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_finetune.training.range_test import RangeTest
from hf_finetune.utils.plots import COLORS, Draw, legend, line_chart, mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Lines = Sequence[Mapping[str, Any]]
"""The lines of log.jsonl."""


def curve(lines: Lines, key: str) -> tuple[list[int], list[float]]:
    """Return the steps of the lines that have a value, and the values."""
    found = [(line["step"], line[key]) for line in lines if key in line]
    return [step for step, _ in found], [value for _, value in found]


def learning_curves(lines: Lines, metric: str, best_step: int | None = None) -> Draw:
    """Return what draws training and validation loss, and below them the validation metric.

    Args:
        metric: name of the metric that chooses the weights.
        best_step: step of these weights, which is marked.
    """

    def draw(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True)
        _plot(top, lines, "loss", "training loss", 0, marker="")
        # Numbers have no log loss.
        has_log_loss = any("eval_log_loss" in line for line in lines)
        if has_log_loss:
            _plot(top, lines, "eval_log_loss", "validation log loss", 1)
        _plot(bottom, lines, f"eval_{metric}", f"validation {metric}", 2)
        top.set(ylabel="loss (nats)" if has_log_loss else "loss")
        bottom.set(xlabel="optimizer step", ylabel=f"validation {metric.replace('_', ' ')}")
        if best_step is not None:
            mark(top, best_step, "best weights")
            mark(bottom, best_step)
        legend(top)

    return draw


def pretraining_curves(lines: Lines, held_out: str) -> Draw:
    """Return what draws the losses of the continued pretraining.

    Args:
        held_out: name of the loss of the held-out rows.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _plot(axes, lines, "loss", "training loss", 0, marker="")
        _plot(axes, lines, f"eval_{held_out}", "held-out loss", 1)
        axes.set(xlabel="optimizer step of the pretraining", ylabel="loss")
        legend(axes)

    return draw


def _plot(axes: Axes, lines: Lines, key: str, label: str, number: int, marker: str = "o") -> None:
    axes.plot(*curve(lines, key), marker=marker, color=COLORS[number], markersize=4, label=label)


def schedule(lines: Lines) -> Draw:
    """Return what draws the logged learning rate."""
    return line_chart(
        {"rate": curve(lines, "learning_rate")}, title="", x_label="optimizer step", y_label="learning rate"
    )


def range_test(test: RangeTest, name: str) -> Draw:
    """Return what draws the losses of the learning-rate range test, with its key points."""
    return line_chart(
        {"loss of the step": (test.rates, test.losses), "smoothed": (test.rates, test.smoothed)},
        title=f"{name}: loss while the learning rate grows",
        x_label="learning rate",
        y_label="loss",
        log_x=True,
        marks={"proposed": test.proposed, **test.marks},
    )
