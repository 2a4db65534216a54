"""The time budget of a search."""

import re
import time

from hf_finetune.errors import InputError

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


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

    @property
    def left_s(self) -> float:
        return self.seconds - self.used_s


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `90s`, `10m` or `1h30m`; a number without a unit is seconds.

    Raises:
        InputError: the text is no duration, or 0.
    """
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    seconds = 0.0
    if parts is not None:
        seconds = sum(float(number) * unit for number, unit in zip(parts.groups("0"), _UNITS.values(), strict=True))
    if seconds <= 0:
        raise InputError(f"--budget {text}: expected a time such as 90s, 10m or 1h30m")
    return seconds


def format_duration(seconds: float) -> str:
    """Format a duration as `parse_duration` reads it, rounded to seconds."""
    minutes, rest = divmod(max(1, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if n)
