"""Seconds of a run's optimizer steps, without evaluation and saving; checkpoints carry them over a restart."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_finetune.utils.files import write_json
from hf_finetune.utils.timer import Timer

FILE = "loop_seconds.json"
"""File of a checkpoint with the seconds of all steps before it."""


class LoopClock:
    """Times the steps of a run (`loop`) and its evaluation and saving (`outside`)."""

    def __init__(self) -> None:
        self.loop, self.outside = Timer(), Timer()
        self._before_restart = 0.0

    def start(self, checkpoint: Path | None) -> None:
        """Start the run, or resume it. A checkpoint without the file counts as 0 seconds."""
        if checkpoint is not None and (checkpoint / FILE).exists():
            self._before_restart = float(json.loads((checkpoint / FILE).read_text()))
        self.loop.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count the block as `outside`."""
        self.loop.stop()
        try:
            with self.outside:
                yield
        finally:
            self.loop.start()

    def save(self, checkpoint: Path) -> None:
        """Write `total` into a checkpoint."""
        write_json(checkpoint / FILE, self.total)

    @property
    def total(self) -> float:
        """Seconds of all steps, those before a restart included."""
        return self._before_restart + self.loop.seconds
