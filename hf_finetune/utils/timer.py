"""A stopwatch for one part of a run."""

import time


class Timer:
    """Adds up the wall-clock seconds of the blocks that it times: `with timer: ...`."""

    def __init__(self) -> None:
        self._finished = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds so far, those of a block that is still running included."""
        return self._finished + (0.0 if self._started is None else time.perf_counter() - self._started)

    def start(self) -> None:
        """Begin a block."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """End the block."""
        self._finished, self._started = self.seconds, None

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
