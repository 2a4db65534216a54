"""What an experiment tracker does for a run, and the callback that feeds it.

The callbacks of transformers are not used. They open their own files elsewhere (TensorBoard and Trackio), send the
TrainingArguments with the user's paths (all), refuse a resumed run whose folder has moved (MLflow), and close before
there are results. Names of the logged values are theirs, so that runs of both can be compared.
"""

from __future__ import annotations

import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from transformers import TrainerCallback, TrainerState, TrainingArguments

from hf_finetune.utils.files import write_text
from hf_finetune.utils.messages import one_line

logger = logging.getLogger("hf_finetune")

FOLDER = "logs"
PROJECT = "hf_finetune"
"""Default name of the project or experiment."""
TRAIN, PRETRAIN = "train", "pretrain"
"""Stages of a run."""
CLASS_COLUMNS = ("class", "precision", "recall", "f1", "rows")


@dataclass(frozen=True)
class Session:
    """A run, as its trackers name it."""

    folder: Path
    """DIR/logs."""
    name: str
    id: str
    """Unique, and the same after a restart."""
    config: Mapping[str, Any]
    """The fields of the recipe by their dotted names, without local paths."""


@dataclass(frozen=True)
class Results:
    """The results of a finished run."""

    step: int
    """The last optimizer step."""
    metrics: Mapping[str, float]
    """Values and bounds by split and name: `test/accuracy`, `test/accuracy_low`."""
    classes: Sequence[Sequence[Any]]
    """Rows of `CLASS_COLUMNS`; an undefined score is None."""
    plots: Mapping[str, Path]
    """PNG files by name."""


class Tracker(ABC):
    """An open log of one run in one tracker; opening it is its construction."""

    @abstractmethod
    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        """Log values of a step; they are in the tracker's files soon. A resumed run repeats the last steps."""

    @abstractmethod
    def log_results(self, results: Results) -> None:
        """Log what is known at the end of a run."""

    @abstractmethod
    def close(self, *, succeeded: bool) -> None:
        """Write what is left, and mark the run as finished or failed."""


def scalar_names(stage: str, logs: Mapping[str, Any]) -> dict[str, float]:
    """Name the numbers of a log line: `train/loss` and `eval/accuracy`, as transformers does, or `pretrain/loss`."""
    names = {}
    for key, value in logs.items():
        if isinstance(value, int | float):
            is_validation = stage == TRAIN and key.startswith("eval_")
            names[f"eval/{key.removeprefix('eval_')}" if is_validation else f"{stage}/{key}"] = value
    return names


@dataclass(eq=False)
class RunTrackers:
    """The trackers of a run. They are opened when its first stage is about to train; until then nothing is written.

    One that fails is dropped with a warning, and the run goes on. As a context it closes them.
    """

    openers: Mapping[str, Callable[[Session], Tracker]] = field(default_factory=dict)
    """By name. None in a dry run, and in processes other than the main one."""
    folder: Path = Path()
    """Folder of the run."""
    name: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    _open: dict[str, Tracker | None] | None = None

    def callbacks(self, stage: str) -> list[TrainerCallback]:
        """Open the trackers, and return what logs the lines of a stage."""
        self._each(lambda tracker: None)
        return [TrackerLines(self, stage)] if self.openers else []

    def log(self, stage: str, logs: Mapping[str, Any], step: int) -> None:
        """Log a line of log.jsonl."""
        values = scalar_names(stage, logs)
        self._each(lambda tracker: tracker.log(stage, values, step))

    def log_results(self, results: Results) -> None:
        """Log the results of the run."""
        self._each(lambda tracker: tracker.log_results(results))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # Without one whose opening was interrupted.
        self._open = {name: tracker for name, tracker in (self._open or {}).items() if tracker is not None}
        self._each(lambda tracker: tracker.close(succeeded=kind is None))
        self._open = None

    def _each(self, action: Callable[[Tracker], None]) -> None:
        if self._open is None:
            self._open = dict.fromkeys(self.openers)
        for name, tracker in list(self._open.items()):
            try:
                if tracker is None:
                    tracker = self._open[name] = self.openers[name](self._session)
                action(tracker)
            # Of a server, a database, a library's own process: anything.
            except Exception as error:
                logger.warning("%s: failed and logs no further, the run goes on (%s)", name, one_line(error))
                del self._open[name]

    @cached_property
    def _session(self) -> Session:
        folder = self.folder / FOLDER
        return Session(folder, self.name, _run_id(folder), self.config)


NO_TRACKERS = RunTrackers()


class TrackerLines(TrainerCallback):
    """Passes each logged step on to the trackers of a run."""

    def __init__(self, trackers: RunTrackers, stage: str) -> None:
        self.trackers, self.stage = trackers, stage

    def on_log(self, args: TrainingArguments, state: TrainerState, control: Any, **event: Any) -> None:
        """Log the line, as `LogLines` does."""
        self.trackers.log(self.stage, {"epoch": state.epoch, **event["logs"]}, state.global_step)


def _run_id(folder: Path) -> str:
    """Return the id of the run, which its trackers share, in DIR/logs/id."""
    path = folder / "id"
    if not path.exists():
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()
