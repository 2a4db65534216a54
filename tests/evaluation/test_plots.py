"""The confusion matrix and the reliability diagram, read from the drawn figure."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from hf_finetune.evaluation.plots import (
    anytime_curve,
    confusion_counts,
    confusion_matrix,
    confusion_size,
    reliability_diagram,
)
from hf_finetune.utils.plots import Draw, render


def drawn(draw: Draw) -> Figure:
    figure = Figure()
    draw(figure)
    return figure


def test_counts_and_shares_by_hand() -> None:
    """Three rows of a, one of them predicted as b; one of b; none of c."""
    counts = confusion_counts(["a", "a", "a", "b"], ["a", "a", "b", "b"], ["a", "b", "c"])
    assert counts.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    axes = drawn(confusion_matrix(counts, ["a", "b", "c"], "test")).axes[0]
    assert np.allclose(axes.images[0].get_array(), [[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 0, 0]])
    assert [(text.get_position(), text.get_text()) for text in axes.texts] == [
        ((0, 0), "2"),
        ((1, 0), "1"),
        ((1, 1), "1"),
    ]
    assert axes.get_title(loc="center") == "test split, 4 rows"
    with pytest.raises(KeyError):
        confusion_counts(["d"], ["a"], ["a", "b"])


@pytest.mark.parametrize(("classes", "names", "numbers"), [(2, 2, 2), (77, 77, 0), (150, None, 0)])
def test_as_many_names_and_numbers_as_can_be_read(classes: int, names: int | None, numbers: int) -> None:
    labels = [f"a rather long name of the class {number}" for number in range(classes)]
    draw = confusion_matrix(np.eye(classes, dtype=int), labels, "test")
    axes = drawn(draw).axes[0]
    assert len(axes.texts) == numbers
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert names is None or (len(shown) == names and all("..." in name and len(name) <= 28 for name in shown))
    assert names is not None or not any("class" in name for name in shown)
    png = render(draw, "png", size=confusion_size(classes))[0]
    assert len(png) < (120_000 if classes == 77 else 60_000)


def test_reliability_by_hand() -> None:
    bins = [
        {"low": 0.5, "high": 0.75, "confidence": 0.6, "accuracy": 0.5, "count": 2},
        {"low": 0.75, "high": 1.0, "confidence": 0.9, "accuracy": 1.0, "count": 8},
    ]
    top, bottom = drawn(reliability_diagram(bins, "validation")).axes
    points = next(line for line in top.lines if line.get_marker() == "o")
    assert points.get_xydata().tolist() == [[0.6, 0.5], [0.9, 1.0]]
    assert [(bar.get_center()[0], bar.get_height()) for bar in bottom.patches] == [(0.625, 2), (0.875, 8)]
    assert top.get_title() == "validation split, 10 rows"


def test_the_anytime_curve_steps_at_rungs_that_are_better() -> None:
    values = {"majority": (2, 0.5, "first"), "linear": (3, 0.7, "better"), "head": (20, 0.72, "undecided")}
    values["full"] = (90, 0.8, "better")
    rungs = [
        {
            "name": n,
            "ended_s": x,
            "verdict": v,
            "metrics": {"accuracy": {"value": y, "low": y - 0.02, "high": y + 0.02}},
        }
        for n, (x, y, v) in values.items()
    ]
    (axes,) = drawn(anytime_curve(rungs, "accuracy")).axes
    steps = next(line for line in axes.lines if line.get_drawstyle() == "steps-post")
    assert steps.get_xydata().tolist() == [[2, 0.5], [3, 0.7], [90, 0.8], [90, 0.8]]
    assert [text.get_text() for text in axes.texts] == list(values)
