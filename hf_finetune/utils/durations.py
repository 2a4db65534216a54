"""Durations as users write them: 90s, 10m, 1h30m."""

import re

from hf_finetune.errors import InputError

EXPECTED = "a time such as 90s, 10m or 1h30m"
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


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
        raise InputError(f"--budget {text}: expected {EXPECTED}")
    return seconds


def is_duration(text: str) -> bool:
    """Return whether `parse_duration` accepts the text."""
    try:
        return parse_duration(text) > 0
    except InputError:
        return False


def format_duration(seconds: float) -> str:
    """Format a duration as `parse_duration` reads it, rounded to seconds."""
    minutes, rest = divmod(max(1, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if n)
