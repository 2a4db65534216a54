"""Seconds that a part of a run takes."""

from __future__ import annotations

import time


class Timer:
    """Adds up the seconds that are spent within it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.started
