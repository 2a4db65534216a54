"""The time budget of a search."""

import time

MOST_EXCLUDED_S = 10.0
"""Seconds that a budget does not count, at most: it is kept within them."""


class Budget:
    """A time budget whose clock is running.

    Args:
        seconds: the whole budget.
        used_s: seconds that were used before.
    """

    def __init__(self, seconds: float, used_s: float = 0.0) -> None:
        self.seconds, self._start = seconds, time.perf_counter() - used_s
        self.excludable_s = MOST_EXCLUDED_S

    @property
    def used_s(self) -> float:
        return time.perf_counter() - self._start

    def exclude(self, seconds: float) -> None:
        """Do not count seconds that have passed, up to `MOST_EXCLUDED_S` in total."""
        excluded = min(seconds, self.excludable_s)
        self._start += excluded
        self.excludable_s -= excluded

    @property
    def left_s(self) -> float:
        return self.seconds - self.used_s
