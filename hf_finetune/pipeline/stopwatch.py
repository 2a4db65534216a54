"""Wall-clock seconds of the stages of a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

from hf_finetune.utils.console import Progress

Part = Literal[
    "augment_s", "encode_s", "layer_search_s", "teacher_s", "head_warm_start_s", "probe_s", "cache_s", "train_s",
    "train_loop_s", "all_steps_s", "pretrain_s", "evaluate_s", "baselines_s", "parity_s",
]  # fmt: skip
"""Keys of `time` in result.json."""
TITLES: dict[Part, str] = {
    "head_warm_start_s": "fit the head",
    "probe_s": "measure kernels",
    "cache_s": "cache activations",
    "evaluate_s": "evaluate",
    "baselines_s": "fit the baselines",
    "parity_s": "reload the saved model and compare",
}
"""What progress calls the parts that have no counter of their own."""
SLOW: tuple[Part, ...] = ("baselines_s", "parity_s")
"""Parts that take many seconds."""


class Stopwatch:
    """Collects the seconds of each part that a run has."""

    def __init__(self) -> None:
        self._seconds: dict[Part, float] = {}

    @contextmanager
    def measure(self, part: Part, title: str | None = None, *, shown: bool = True) -> Iterator[None]:
        """Time the block, and show that it runs; a part of several blocks has their sum. A block that raises is not
        recorded.

        Args:
            title: None: that of the part, if it has one.
            shown: False: another block of the part is shown.
        """
        started, title = time.perf_counter(), title or TITLES.get(part)
        with Progress(title, slow=part in SLOW) if shown and title is not None else nullcontext():
            yield
        self._seconds[part] = self.seconds(part) + time.perf_counter() - started

    def record(self, part: Part, seconds: float) -> None:
        """Set seconds that were measured elsewhere."""
        self._seconds[part] = seconds

    def seconds(self, part: Part) -> float:
        """Return the seconds of a part, or 0 if the run does not have it."""
        return self._seconds.get(part, 0.0)

    def to_dict(self) -> dict[str, float]:
        """Return the section `time` of result.json."""
        return {part: round(seconds, 2) for part, seconds in self._seconds.items()}
