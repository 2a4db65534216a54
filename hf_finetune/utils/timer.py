"""A stopwatch for a part of a run."""

from __future__ import annotations

import time


class Timer:
    """Context manager that adds up the seconds spent in its blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.started
