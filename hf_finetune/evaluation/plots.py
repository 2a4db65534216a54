"""Charts of predictions: the confusion matrix and the reliability diagram.

Legend: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_finetune.evaluation.per_class import wilson
from hf_finetune.utils.messages import cut, printable
from hf_finetune.utils.plots import COLORS, GRAY, Draw, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Most classes whose cells have numbers, and whose names are shown.
MOST_NUMBERS, MOST_NAMES = 20, 100
NAME_WIDTH = 28


def confusion_counts(labels: Sequence[str], predicted: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return the number of rows of each class (C) that are predicted as each class (C), from class names (N).

    Raises:
        KeyError: a row has a class that is none of `names`.
    """
    ids = {name: number for number, name in enumerate(names)}
    counts_CC = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts_CC, ([ids[name] for name in labels], [ids[name] for name in predicted]), 1)
    return counts_CC


def confusion_size(num_classes: int) -> tuple[float, float]:
    """Return width and height in inches at which the cells of a confusion matrix can be distinguished."""
    cells = 0.11 * num_classes if num_classes > MOST_NUMBERS else 0.42 * num_classes
    side = min(max(3.4, cells + 1.6), 11.0)
    return side + 1.0, side


def confusion_matrix(counts_CC: np.ndarray, names: Sequence[str], split: str) -> Draw:
    """Return what draws the rows of each class as shares of the predicted classes."""
    support_C = counts_CC.sum(axis=1)
    shares_CC = counts_CC / np.maximum(support_C, 1)[:, None]
    count = len(names)

    def draw(figure: Figure) -> None:
        # The cells are square, whatever the space.
        figure.set_layout_engine("compressed")
        axes = figure.subplots()
        axes.grid(False)
        image = axes.imshow(shares_CC, cmap="Blues", vmin=0, vmax=1, interpolation="none")
        axes.set(
            title=f"{split} split, {support_C.sum():,} rows", xlabel="predicted class", ylabel="class of the label"
        )
        figure.colorbar(image, ax=axes, label="share of the rows of a class", fraction=0.046)
        if count <= MOST_NAMES:
            size = 9 if count <= MOST_NUMBERS else 5.5
            shown = [cut(printable(name), NAME_WIDTH) for name in names]
            is_long = count > 6 or max(map(len, shown)) > 8
            axes.set_xticks(range(count), shown, size=size, rotation=90 if is_long else 0)
            axes.set_yticks(range(count), shown, size=size)
        if count <= MOST_NUMBERS:
            _write_numbers(axes, counts_CC, shares_CC)

    return draw


def _write_numbers(axes: Axes, counts_CC: np.ndarray, shares_CC: np.ndarray) -> None:
    """Write the rows into the cells that have some."""
    for (row, column), rows in np.ndenumerate(counts_CC):
        if rows:
            color = "white" if shares_CC[row, column] > 0.5 else "black"
            axes.text(column, row, f"{rows:,}", ha="center", va="center", color=color, size=8)


def reliability_diagram(bins: Sequence[Mapping[str, Any]], split: str) -> Draw:
    """Return what draws the accuracy by confidence, with 95% intervals, over the number of rows.

    Args:
        bins: see `calibration.ReliabilityBin`.
    """
    confidence, accuracy, count, low, high = (
        np.array([each[name] for each in bins], dtype=float)
        for name in ("confidence", "accuracy", "count", "low", "high")
    )
    lower, upper = wilson(accuracy * count, count)

    def draw(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        top.plot([0, 1], [0, 1], "--", color=GRAY, linewidth=1, label="perfect calibration")
        errors = np.maximum([accuracy - lower, upper - accuracy], 0)
        top.errorbar(
            confidence, accuracy, errors, fmt="o", color=COLORS[0], markersize=4, capsize=3, label="this model"
        )
        top.set(title=f"{split} split, {count.sum():,.0f} rows", ylabel="accuracy", ylim=(0, 1.02))
        bottom.bar((low + high) / 2, count, 0.9 * (high - low), color=COLORS[5])
        bottom.set(xlabel="confidence (probability of the predicted class)", ylabel="rows", xlim=(0, 1.01))
        legend(top)

    return draw


def anytime_curve(rungs: Sequence[Mapping[str, Any]], metric: str) -> Draw:
    """Return what draws a metric of the validation rows against the time, one point for each rung of a ladder.

    The line is that of the best rung so far, by the paired test.

    Args:
        rungs: entries of result.json with `name`, `ended_s`, `verdict`, and the metric's value, low and high.
    """
    times = [rung["ended_s"] for rung in rungs]
    value, low, high = ([rung["metrics"][metric][name] for rung in rungs] for name in ("value", "low", "high"))
    best = [number for number, rung in enumerate(rungs) if rung["verdict"] in ("first", "better")]
    judged_on = "out of fold" if any(rung.get("out_of_fold") for rung in rungs) else "validation"

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        errors = np.maximum([np.subtract(value, low), np.subtract(high, value)], 0)
        axes.errorbar(times, value, errors, fmt="o", color=COLORS[0], markersize=4, capsize=3)
        line = [*((times[i], value[i]) for i in best), (max(times), value[best[-1]])] if best else []
        axes.plot(*zip(*line, strict=True), color=GRAY, linewidth=1, drawstyle="steps-post") if line else None
        for rung, x, y in zip(rungs, times, high, strict=True):
            axes.annotate(
                printable(rung["name"]), (x, y), xytext=(0, 4), textcoords="offset points", ha="center", size=9
            )
        axes.set(xlabel="seconds since the start", ylabel=f"{metric} ({judged_on})", title="Best so far, and each rung")
        axes.margins(x=0.06, y=0.14)

    return draw


def pareto_chart(section: Mapping[str, Any]) -> Draw:
    """Return what draws the metric of compressed candidates against their rate, with the area of a point as its size.

    Full points are those of which no other is better in everything; the line joins them.

    Args:
        section: `compression` of result.json.
    """
    metric, best = section["metric"], set(section["front"])
    shown = [each for each in section["candidates"] if metric in each["metrics"] and each["rows_per_s"]]
    largest = max((each["bytes"] for each in shown), default=1)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, each in enumerate(shown, 1):
            score, x = each["metrics"][metric], each["rows_per_s"]
            color = COLORS[0] if each["name"] in best else GRAY
            errors = np.maximum([[score["value"] - score["low"]], [score["high"] - score["value"]]], 0)
            axes.errorbar([x], [score["value"]], errors, fmt="none", color=color, capsize=3, linewidth=1)
            area = max(160 * each["bytes"] / largest, 6)
            name = f"{number}  {printable(each['name'])}{' (chosen)' * (each['name'] == section['chosen'])}"
            fill = color if each["name"] in best else "none"
            axes.scatter([x], [score["value"]], s=area, color=fill, edgecolors=color, zorder=3, label=name)
            place: Any = {"xytext": (4, 4), "textcoords": "offset points", "size": 8}
            axes.annotate(str(number), (x, score["value"]), **place)
        figure.legend(loc="outside lower center", ncols=2, fontsize=7)
        axes.set(
            xlabel="rows per second, from input to label",
            ylabel=f"{metric} (rows that choose)",
            title="Candidates: area is the size of the files",
        )
        axes.margins(x=0.12, y=0.16)

    return draw
