"""Line charts as SVG and as a row of characters, without a plotting library."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 720, 360, 70, 30, 40
COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
BARS = "▁▂▃▄▅▆▇█"
# More points than this are not distinguishable.
MOST_POINTS = 1000


@dataclass(frozen=True)
class _Axes:
    """Maps values to positions on the drawing."""

    low: tuple[float, float]
    high: tuple[float, float]
    right: float
    """End of the x axis on the drawing."""
    log_x: bool

    def x(self, x: float) -> float:
        """Return the position of a value, or of its logarithm."""
        return self.at(((math.log10(x) if self.log_x else x) - self.low[0]) / ((self.high[0] - self.low[0]) or 1.0))

    def at(self, share: float) -> float:
        """Return the position at a share of the x axis."""
        return LEFT + share * (self.right - LEFT)

    def y(self, y: float) -> float:
        return HEIGHT - BOTTOM - (y - self.low[1]) / ((self.high[1] - self.low[1]) or 1.0) * (HEIGHT - BOTTOM - TOP)


def line_chart(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str,
    log_x: bool = False,
    marks: Mapping[str, float] | None = None,
) -> str:
    """Draw lines as an SVG image.

    Args:
        lines: x and y of the points of each line, by its name.
        log_x: use a logarithmic x axis; all x must be above 0.
        marks: values of x to mark with a vertical line, by name.
    """
    axes = _axes_of(lines, log_x)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<path d="M{LEFT},{TOP}V{HEIGHT - BOTTOM}H{axes.right}" fill="none" stroke="#000"/>',
        _text(axes.at(0.5), TOP - 12, title),
        _text(axes.at(0.5), HEIGHT - 6, x_label),
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = (low + share * (high - low) for low, high in zip(axes.low, axes.high, strict=True))
        parts.append(_text(LEFT - 6, axes.y(y) + 4, f"{y:.3g}", "end"))
        parts.append(_text(axes.at(share), HEIGHT - BOTTOM + 14, f"{10**x:.1e}" if log_x else f"{x:.0f}"))
    for row, (name, (xs, ys)) in enumerate(lines.items()):
        color = COLORS[row % len(COLORS)]
        points = " ".join(f"{axes.x(xs[i]):.1f},{axes.y(ys[i]):.1f}" for i in _evenly_spaced(len(xs), MOST_POINTS))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        parts.append(_text(axes.right + 10, TOP + 14 * row + 8, name, "start", color))
    for row, (name, value) in enumerate((marks or {}).items()):
        x = axes.x(value)
        parts.append(f'<path d="M{x:.1f},{TOP}V{HEIGHT - BOTTOM}" stroke="#555" stroke-dasharray="4 3"/>')
        parts.append(_text(x + 3, TOP + 10 + 12 * row, name, "start", "#555"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes_of(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], log_x: bool) -> _Axes:
    """Return axes that contain all points; y starts at 0 or below."""
    all_x = np.concatenate([np.asarray(x, dtype=float) for x, _ in lines.values()])
    all_y = np.concatenate([np.asarray(y, dtype=float) for _, y in lines.values()])
    low_x, high_x = (float(np.log10(x) if log_x else x) for x in (all_x.min(), all_x.max()))
    # The space on the right holds the names of the lines.
    return _Axes((low_x, min(0.0, float(all_y.min()))), (high_x, float(all_y.max())), WIDTH - 190, log_x)


def _text(x: float, y: float, words: str, anchor: str = "middle", color: str = "#000") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{escape(words)}</text>'


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
