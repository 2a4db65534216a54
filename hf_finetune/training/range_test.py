"""The learning-rate range test: propose a rate from the loss under a rate that grows at each step.

Leslie Smith, Cyclical Learning Rates for Training Neural Networks (https://arxiv.org/abs/1506.01186), section 3.3, with
exponential growth and a smoothed loss, as is usual today.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LOWEST, HIGHEST, STEPS = 1e-3, 1e3, 100
"""Range of the rates as multiples of the run's, and number of steps."""
WIDTH = 11
"""Steps in the mean of the smoothed loss. An exponential mean would lag behind the rate."""
DIVERGED = 4.0
"""Ratio of the smoothed loss to its minimum so far at which the curve ends."""
FIRST = 10
"""First steps of the curve, which show how much the loss differs between batches. A curve needs twice as many."""


@dataclass(frozen=True)
class RangeTest:
    """The curve and its key points."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    """Smoothed losses up to where the loss diverged, as many as `rates`."""
    steepest: float | None
    """Rate below `lowest` at which the smoothed loss falls fastest per factor of the rate."""
    lowest: float | None
    """Rate at the lowest smoothed loss after the first steps. This and `steepest` are None where the loss did not fall
    by more than two standard errors of the first steps' mean, as after fitting the head."""
    rise: float | None
    """Last rate before the smoothed loss stays above the first steps' mean plus standard deviation. None: it never
    does."""

    @property
    def proposed(self) -> float:
        """The lesser of `steepest` and a tenth of `lowest` where the loss fell, else a third of `rise`: the best rate
        lies a few times below the largest at which the loss does not rise (section 3.3)."""
        if self.steepest is not None and self.lowest is not None:
            return min(self.steepest, self.lowest / 10)
        assert self.rise is not None, "`read` returns no other curve"
        return self.rise / 3

    @property
    def marks(self) -> dict[str, float]:
        """The key points of the curve, without those that it lacks."""
        marks = {"steepest": self.steepest, "lowest": self.lowest, "rise": self.rise}
        return {name: rate for name, rate in marks.items() if rate is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return the content of find_lr.json."""
        return {**asdict(self), "proposed": self.proposed}


def growth(steps: int) -> float:
    """Return the factor of the rate at each step that leads from `LOWEST` to `HIGHEST` in so many steps."""
    return (HIGHEST / LOWEST) ** (1 / (steps - 1))


def smooth(losses: Sequence[float], width: int = WIDTH) -> np.ndarray:
    """Return the mean of the `width` losses around each step, or of fewer at both ends; shape (steps,)."""
    window = np.ones(width)
    return np.convolve(losses, window, "same") / np.convolve(np.ones(len(losses)), window, "same")


def read(rates: Sequence[float], losses: Sequence[float]) -> RangeTest | None:
    """Find the key points of a curve; None if it is too short, or the loss neither fell nor rose.

    Args:
        rates: growing rates of the steps.
        losses: finite losses of the steps.
    """
    if len(losses) < max(WIDTH, 2 * FIRST):
        return None
    smoothed = smooth(losses)
    diverged = np.flatnonzero(smoothed > DIVERGED * np.minimum.accumulate(smoothed))
    end = int(diverged[0]) if len(diverged) else len(smoothed)
    if end <= FIRST:
        return None
    first = np.asarray(losses[:FIRST])
    mean, deviation = float(first.mean()), float(first.std(ddof=1))
    calm = np.flatnonzero(smoothed[:end] <= mean + deviation)
    rises = len(calm) > 0 and (calm[-1] < end - 1 or end < len(smoothed))
    steepest = None
    # Skip the first steps: an easy batch may have the lowest loss at a rate that changes nothing yet.
    lowest = FIRST + int(smoothed[FIRST:end].argmin())
    falls = mean - smoothed[lowest] > 2 * deviation / FIRST**0.5
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
