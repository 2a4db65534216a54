"""Which of several compressed candidates are worth having, and which one is chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A candidate as the choice sees it."""

    name: str
    loss: float
    """Points, or hundredths, lost on the rows that choose, against the source, with a standard error."""
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


@dataclass(frozen=True)
class Limits:
    """What a candidate has to reach."""

    max_loss: float
    """On `Point.loss`."""
    latency_ms: float | None = None
    """On `Point.latency_ms`. None: no limit."""
    max_bytes: float | None = None
    """None: no limit."""

    def allow(self, point: Point) -> bool:
        """Return whether a candidate is within all limits."""
        return (
            point.loss <= self.max_loss
            and (self.latency_ms is None or point.latency_ms <= self.latency_ms)
            and (self.max_bytes is None or point.bytes <= self.max_bytes)
        )

    def excess(self, point: Point) -> float:
        """Return by which share a candidate is beyond the limits, those of all together."""
        shares = [point.loss / self.max_loss]
        shares += [] if self.latency_ms is None else [point.latency_ms / self.latency_ms]
        shares += [] if self.max_bytes is None else [point.bytes / self.max_bytes]
        return sum(math.inf if math.isnan(share) else max(share - 1, 0) for share in shares)


def choose(points: Sequence[Point], limits: Limits) -> str | None:
    """Return the fastest candidate within the limits. None: there is none."""
    within = [point for point in points if limits.allow(point)]
    return max(within, key=lambda point: point.rows_per_s).name if within else None


def alternatives(points: Sequence[Point], limits: Limits, *, most: int = 2) -> list[str]:
    """Return the candidates that miss the limits by the least, the closest first."""
    return [point.name for point in sorted(points, key=limits.excess)[:most]]
