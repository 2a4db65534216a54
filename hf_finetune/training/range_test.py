"""The learning-rate range test: what the loss says of a rate that grows from step to step.

Leslie Smith, Cyclical Learning Rates for Training Neural Networks (https://arxiv.org/abs/1506.01186), section 3.3; with
exponential growth and a smoothed loss, as is usual since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LOWEST, HIGHEST, STEPS = 1e-3, 1e3, 100
"""The rates tried, as multiples of the run's own, and in how many steps."""
WIDTH = 11
"""Steps that the smoothed loss is the mean of; an exponential mean would say of each rate what a lower one did."""
DIVERGED = 4.0
"""A smoothed loss this many times the lowest so far is the end of the curve."""
FEWEST = 10
"""Steps of a curve that can be read, and at its start those that show how much the loss differs between batches."""


@dataclass(frozen=True)
class RangeTest:
    """The curve, and what it proposes."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    """Up to where the loss diverged; as long as `rates`."""
    steepest: float | None
    """The rate, on the way to `lowest`, at which the smoothed loss falls fastest per factor of the rate."""
    lowest: float | None
    """The rate at the lowest smoothed loss after the first `FEWEST` steps. None, both: the loss did not fall by more
    than two standard errors of the mean of those steps, as when the head was fitted beforehand."""
    rise: float | None
    """The last rate before the smoothed loss stays above the first steps' mean and standard deviation; None: it does
    not."""

    @property
    def proposed(self) -> float:
        """Where the loss fell: the lesser of `steepest` and a tenth of `lowest`. Where not: a third of `rise`, for the
        best rate is said to lie within a factor of a few below the largest at which the loss does not rise (section
        3.3)."""
        if self.steepest is not None and self.lowest is not None:
            return min(self.steepest, self.lowest / 10)
        assert self.rise is not None, "such a curve is not read"
        return self.rise / 3

    def to_dict(self) -> dict[str, Any]:
        """As find_lr.json has it."""
        return {**asdict(self), "proposed": self.proposed}


def growth(steps: int) -> float:
    """The factor from each of `steps` steps to the next, from `LOWEST` to `HIGHEST`."""
    return (HIGHEST / LOWEST) ** (1 / (steps - 1))


def smooth(losses: Sequence[float], width: int = WIDTH) -> np.ndarray:
    """Mean of the `width` losses around each step, shape (steps,); at both ends of those that there are."""
    window = np.ones(width)
    return np.convolve(losses, window, "same") / np.convolve(np.ones(len(losses)), window, "same")


def read(rates: Sequence[float], losses: Sequence[float]) -> RangeTest | None:
    """Read the curve; None when it is too short, or the loss neither fell nor rose.

    Args:
        rates: of each step, growing.
        losses: of each step, finite.
    """
    if len(losses) < max(WIDTH, 2 * FEWEST):
        return None
    smoothed = smooth(losses)
    diverged = np.flatnonzero(smoothed > DIVERGED * np.minimum.accumulate(smoothed))
    end = int(diverged[0]) if len(diverged) else len(smoothed)
    if end <= FEWEST:
        return None
    first = np.asarray(losses[:FEWEST])
    mean, deviation = float(first.mean()), float(first.std(ddof=1))
    calm = np.flatnonzero(smoothed[:end] <= mean + deviation)
    rises = len(calm) > 0 and (calm[-1] < end - 1 or end < len(smoothed))
    steepest = None
    # A rate at which nothing happens yet has the lowest loss of all when the batch is an easy one.
    lowest = FEWEST + int(smoothed[FEWEST:end].argmin())
    falls = mean - smoothed[lowest] > 2 * deviation / FEWEST**0.5
    if falls:
        slopes = np.gradient(smoothed[: lowest + 1], np.log(np.asarray(rates[: lowest + 1])))
        steepest = float(rates[int(slopes.argmin())])
    elif not rises:
        return None
    return RangeTest(
        rates=tuple(map(float, rates[:end])),
        losses=tuple(map(float, losses[:end])),
        smoothed=tuple(map(float, smoothed[:end])),
        steepest=steepest,
        lowest=float(rates[lowest]) if falls else None,
        rise=float(rates[int(calm[-1])]) if rises else None,
    )
