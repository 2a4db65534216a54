"""Lines as a picture (SVG) and as a row of characters, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 720, 360, 70, 30, 40
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
BARS = "▁▂▃▄▅▆▇█"
# More points than this cannot be told apart.
MOST_POINTS = 1000


def line_chart(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str,
    log_x: bool = False,
    marks: Mapping[str, float] | None = None,
) -> str:
    """An SVG picture of some lines.

    Args:
        lines: by name, x and y of each point, as many of one as of the other.
        log_x: draw x by its logarithm; all x are then above 0.
        marks: by name, values of x at which a vertical line stands.
    """
    # The names of the lines stand beside the picture.
    right = WIDTH - 190
    all_x = np.concatenate([np.asarray(x, dtype=float) for x, _ in lines.values()])
    all_y = np.concatenate([np.asarray(y, dtype=float) for _, y in lines.values()])
    scale = np.log10 if log_x else np.asarray
    low_x, high_x = float(scale(all_x.min())), float(scale(all_x.max()))
    low_y, high_y = min(0.0, float(all_y.min())), float(all_y.max())

    def at_x(x: float) -> float:
        return LEFT + (float(scale(x)) - low_x) / ((high_x - low_x) or 1.0) * (right - LEFT)

    def at_y(y: float) -> float:
        return HEIGHT - BOTTOM - (y - low_y) / ((high_y - low_y) or 1.0) * (HEIGHT - BOTTOM - TOP)

    def text(x: float, y: float, words: str, anchor: str = "middle", colour: str = "#000") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<path d="M{LEFT},{TOP}V{HEIGHT - BOTTOM}H{right}" fill="none" stroke="#000"/>',
        text((LEFT + right) / 2, TOP - 12, title),
        text((LEFT + right) / 2, HEIGHT - 6, x_label),
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y, x = low_y + share * (high_y - low_y), low_x + share * (high_x - low_x)
        parts.append(text(LEFT - 6, at_y(y) + 4, f"{y:.3g}", "end"))
        parts.append(text(LEFT + share * (right - LEFT), HEIGHT - BOTTOM + 14, f"{10**x:.1e}" if log_x else f"{x:.0f}"))
    for row, (name, (x, y)) in enumerate(lines.items()):
        colour = COLOURS[row % len(COLOURS)]
        kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).round().astype(int))
        points = " ".join(f"{at_x(x[i]):.1f},{at_y(y[i]):.1f}" for i in kept)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(text(right + 10, TOP + 14 * row + 8, name, "start", colour))
    for row, (name, x) in enumerate((marks or {}).items()):
        place = at_x(x)
        parts.append(f'<path d="M{place:.1f},{TOP}V{HEIGHT - BOTTOM}" stroke="#555" stroke-dasharray="4 3"/>')
        parts.append(text(place + 3, TOP + 10 + 12 * row, name, "start", "#555"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """The values as one row of bars, the lowest a short one, the highest a full one."""
    found = np.asarray(values, dtype=float)
    kept = found[np.unique(np.linspace(0, len(found) - 1, min(width, len(found))).round().astype(int))]
    low, span = float(kept.min()), float(np.ptp(kept))
    if not span > 0 or not math.isfinite(span):
        return BARS[3] * len(kept)
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in kept)
