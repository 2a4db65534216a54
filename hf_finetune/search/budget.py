"""The time budget of a search."""

import time


class Budget:
    """A time budget whose clock is running.

    Args:
        seconds: the whole budget.
        used_s: seconds that were used before.
    """

    def __init__(self, seconds: float, used_s: float = 0.0) -> None:
        self.seconds, self._start = seconds, time.perf_counter() - used_s

    @property
    def used_s(self) -> float:
        return time.perf_counter() - self._start

    def exclude(self, seconds: float) -> None:
        """Do not count seconds that have passed."""
        self._start += seconds

    @property
    def left_s(self) -> float:
        return self.seconds - self.used_s
