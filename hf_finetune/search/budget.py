"""Time: what the user allows, what is left of it, and how many trials it is enough for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from hf_finetune.errors import InputError

MOST_TRIALS = 1_000
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


class Budget:
    """The time of a search.

    Args:
        seconds: in all.
        used_s: those that are gone already.
    """

    def __init__(self, seconds: float, used_s: float = 0.0) -> None:
        self.seconds, self._start = seconds, time.perf_counter() - used_s

    @property
    def used_s(self) -> float:
        """Seconds that are gone."""
        return time.perf_counter() - self._start

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self.seconds - self.used_s


def parse_duration(text: str) -> float:
    """Seconds of a time such as `90s`, `10m` or `1h30m`; a number alone is seconds.

    Raises:
        InputError: it is none, or 0.
    """
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    seconds = 0.0
    if parts is not None:
        seconds = sum(float(number) * unit for number, unit in zip(parts.groups("0"), _UNITS.values(), strict=True))
    if seconds <= 0:
        raise InputError(f"--budget {text}: expected a time such as 90s, 10m or 1h30m")
    return seconds


def format_duration(seconds: float) -> str:
    """A time as `parse_duration` reads it, to the second."""
    minutes, rest = divmod(max(1, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if n)


def affordable(counts: Callable[[int], Sequence[int]], seconds: Sequence[float], available: float) -> int:
    """The most trials that end in time; 0: not even the fewest.

    Args:
        counts: how many of so many trials are on each rung.
        seconds: of a trial on each rung.
        available: seconds in all.
    """
    least = len(seconds)
    in_time = 0
    for trials in range(least, MOST_TRIALS + 1):
        if sum(n * s for n, s in zip(counts(trials), seconds, strict=True)) > available:
            break
        in_time = trials
    return in_time
