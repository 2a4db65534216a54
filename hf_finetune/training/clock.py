"""What the optimizer steps of a run take, without evaluation and saving; also those before it was resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_finetune.utils.files import write_json

FILE = "loop_seconds.json"
"""Within a checkpoint: seconds of all steps up to it."""


class LoopClock:
    """Counts the seconds of a run's steps."""

    def __init__(self) -> None:
        self.outside = 0.0
        """Seconds of evaluating and saving."""
        self._started = self._now = 0.0
        self._before = 0.0
        self._paused: float | None = None

    def start(self, checkpoint: Path | None) -> None:
        """Begin a run, or go on with it from a checkpoint (one from before this was counted has no file)."""
        self._started = time.perf_counter()
        if checkpoint is not None and (checkpoint / FILE).exists():
            self._before = float(json.loads((checkpoint / FILE).read_text()))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what happens within."""
        self._paused = time.perf_counter()
        try:
            yield
        finally:
            self.outside += time.perf_counter() - self._paused
            self._paused = None

    def stop(self) -> None:
        """End the run."""
        self._paused = time.perf_counter()

    def save(self, checkpoint: Path) -> None:
        """Write `total` into a checkpoint."""
        write_json(checkpoint / FILE, self.total)

    @property
    def loop(self) -> float:
        """Seconds of the steps since the run was started or resumed."""
        now = time.perf_counter() if self._paused is None else self._paused
        return now - self._started - self.outside

    @property
    def total(self) -> float:
        """Seconds of all steps."""
        return self._before + self.loop
