"""Which of several compressed candidates are worth having, and which one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A candidate as the choice sees it."""

    name: str
    loss: float
    """Points lost on the rows that choose, against the source, with a standard error."""
    rows_per_s: float
    latency_ms: float
    """95th percentile of one row."""
    bytes: int


def front(points: Sequence[Point]) -> tuple[str, ...]:
    """Return the names of the candidates of which no other is at least as good in loss, speed and size, and better in
    one of them."""

    def beats(one: Point, other: Point) -> bool:
        mine, theirs = ((each.loss, -each.rows_per_s, each.bytes) for each in (one, other))
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))

    return tuple(point.name for point in points if not any(beats(other, point) for other in points))


def choose(points: Sequence[Point], *, max_loss: float, latency_ms: float | None) -> str | None:
    """Return the fastest candidate within the limits. None: there is none.

    Args:
        max_loss: points.
        latency_ms: limit on `Point.latency_ms`. None: there is none.
    """
    within = [
        point for point in points if point.loss <= max_loss and (latency_ms is None or point.latency_ms <= latency_ms)
    ]
    return max(within, key=lambda point: point.rows_per_s).name if within else None


def alternatives(points: Sequence[Point], *, max_loss: float, latency_ms: float | None, most: int = 2) -> list[str]:
    """Return the candidates that miss the limits by the least, the closest first."""

    def excess(point: Point) -> float:
        slow = 0.0 if latency_ms is None else max(point.latency_ms / latency_ms - 1, 0)
        return max(point.loss / max_loss - 1, 0) + slow

    return [point.name for point in sorted(points, key=excess)[:most]]
