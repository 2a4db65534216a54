"""Charts by matplotlib as SVG and PNG, and a row of characters for a terminal.

Figures are built without pyplot, in matplotlib's default style: figures, backend and settings of the user have no
influence and stay as they are. The same numbers give the same bytes with the same matplotlib.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_finetune.utils.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[["Figure"], None]
"""Draws a chart on an empty figure."""
Format = Literal["png", "svg"]

FORMATS: tuple[Format, ...] = ("png", "svg")
WIDTH, HEIGHT = 7.2, 3.4
"""Inches of a chart. A model card shows it about as wide as 720 points."""
DPI = 144
# Okabe and Ito's palette, for every kind of color vision; lines also differ by their dashes.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
GRAY = "#666666"
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    # Names of classes and runs are no formulas.
    "text.parse_math": False,
    "svg.hashsalt": "hf_finetune",
    # Text stays text: small files, and a viewer's own fonts for names that matplotlib's font lacks.
    "svg.fonttype": "none",
}
BARS = "▁▂▃▄▅▆▇█"
# matplotlib's settings belong to the process.
_style = threading.Lock()


def write_plot(folder: Path, name: str, draw: Draw, *, size: tuple[float, float] = (WIDTH, HEIGHT)) -> None:
    """Write NAME.png and NAME.svg.

    Args:
        size: width and height in inches.
    """
    for format, content in zip(FORMATS, render(draw, *FORMATS, size=size), strict=True):
        write_bytes(folder / f"{name}.{format}", content)


def render(draw: Draw, *formats: Format, size: tuple[float, float] = (WIDTH, HEIGHT)) -> list[bytes]:
    """Return a chart as files of these formats."""
    from matplotlib.figure import Figure

    with _default_style():
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        draw(figure)
        return [_encoded(figure, format) for format in formats]


@contextmanager
def _default_style() -> Iterator[None]:
    import warnings

    from matplotlib import style

    with _style, style.context(["default", STYLE]), warnings.catch_warnings():
        # A box in the PNG; the SVG has the character.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def _encoded(figure: Figure, format: Format) -> bytes:
    file = io.BytesIO()
    if format == "svg":
        # Neither the date nor the version of matplotlib.
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # A palette halves the file.
    image.quantize(dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return file.getvalue()


def line_chart(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    marks: Mapping[str, float] | None = None,
) -> Draw:
    """Return what draws lines on a figure.

    Args:
        lines: x and y of the points of each line, by its name.
        log_x: use a logarithmic x axis; all x must be above 0.
        marks: values of x to mark with a vertical line, by name.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        if log_x:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0e}")
        axes.ticklabel_format(axis="y", scilimits=(-3, 5))
        for number, (name, (xs, ys)) in enumerate(lines.items()):
            axes.plot(xs, ys, DASHES[number % len(DASHES)], color=COLORS[number % len(COLORS)], label=name)
        for x in dict.fromkeys((marks or {}).values()):
            mark(axes, x, ", ".join(name for name, at in (marks or {}).items() if at == x))
        legend(axes)

    return draw


def mark(axes: Axes, x: float, name: str = "") -> None:
    """Mark a value of x with a vertical line, and name it at its top."""
    axes.axvline(x, color=GRAY, linewidth=0.8, linestyle=":")
    place: Any = {"xy": (x, 0.98), "xycoords": ("data", "axes fraction"), "xytext": (3, 0)}
    # Above the lines, on a ground that hides them.
    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
    axes.annotate(
        name, **place, textcoords="offset points", rotation=90, va="top", color=GRAY, size=8, bbox=ground, zorder=3
    )


def legend(axes: Axes) -> None:
    """Name the lines, where there are several: above the axes, or on the right of them if they are many."""
    count = len(axes.get_legend_handles_labels()[1])
    if count > 3:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    elif count > 1:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=count, borderpad=0)


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """Return the values as a row of bars, the lowest value as the shortest."""
    shown = np.asarray(values, dtype=float)[_evenly_spaced(len(values), width)]
    low, span = float(shown.min()), float(np.ptp(shown))
    if not span > 0 or not math.isfinite(span):
        return BARS[3] * len(shown)
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in shown)


def _evenly_spaced(count: int, most: int) -> np.ndarray:
    """Return at most `most` indices of `count` values, first and last included."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
