"""Wall-clock seconds of a run's parts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Part = Literal[
    "augment_s", "encode_s", "layer_search_s", "teacher_s", "head_warm_start_s", "probe_s", "cache_s", "train_s",
    "train_loop_s", "all_steps_s", "pretrain_s", "evaluate_s", "baselines_s", "parity_s",
]  # fmt: skip
"""As `time` of result.json has them."""


class Stopwatch:
    """Seconds by part; a part that a run does not have is not there."""

    def __init__(self) -> None:
        self._seconds: dict[Part, float] = {}

    @contextmanager
    def measure(self, part: Part) -> Iterator[None]:
        """Time the block as this part. It is not there when the block fails."""
        started = time.perf_counter()
        yield
        self._seconds[part] = time.perf_counter() - started

    def note(self, part: Part, seconds: float) -> None:
        """Set a part that something else has timed."""
        self._seconds[part] = seconds

    def seconds(self, part: Part) -> float:
        """Of a part; 0 where the run does not have it."""
        return self._seconds.get(part, 0.0)

    def to_dict(self) -> dict[str, float]:
        """As result.json has it."""
        return {part: round(seconds, 2) for part, seconds in self._seconds.items()}
