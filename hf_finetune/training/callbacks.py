"""Progress and log of a run."""

import itertools
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.training.distributed import largest
from hf_finetune.utils.console import Progress
from hf_finetune.utils.files import named_errors, sync, write_text

LOG = "log.jsonl"


class ProgressBar(TrainerCallback):
    """Counts all steps on stderr, with the last loss and validation metric."""

    def __init__(self, metric: str, name: str = "train") -> None:
        self.metric, self.name = metric, name
        self.bar: Progress | None = None
        self.latest: dict[str, str] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        """Begin, for a resumed run at its first step."""
        if state.is_world_process_zero:
            self.bar = Progress(self.name, total=state.max_steps, unit="step", done=state.global_step).__enter__()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Count the step."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.done)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any) -> None:
        """Show the loss and the validation metric."""
        if self.bar is None:
            return
        for source, name in (("loss", "loss"), (f"eval_{self.metric}", self.metric)):
            if source in event["logs"]:
                self.latest[name] = f"{event['logs'][source]:.4g}"
        self.bar.update(0, remark=", ".join(f"{name} {value}" for name, value in self.latest.items()))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """End."""
        self.close()

    def close(self) -> None:
        """End, also of a training that failed."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class SparseValidation(TrainerCallback):
    """Validates and saves after every so many epochs and after the last one, in place of every epoch."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Take back what transformers has set for each epoch."""
        assert state.epoch is not None, "set in training"
        if round(state.epoch) % self.every and state.global_step < state.max_steps and not control.should_training_stop:
            control.should_evaluate = control.should_save = False


class TimeLimit(TrainerCallback):
    """Ends training after a number of seconds, as if the steps were over: the weights are evaluated and saved."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.share = 0.0
        """Of the time that has passed at the end of the last step, the same in all processes."""
        self._started = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        """Start the time."""
        self._started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """End training if the time is over in any process."""
        self.share = largest(args, (time.monotonic() - self._started) / max(self.seconds, 1e-9))
        control.should_training_stop |= self.share >= 1


class LogLines(TrainerCallback):
    """Appends a line of JSON to `path` for each logged step; they are on the disk before a checkpoint of their step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        """Remove the lines of steps that a resumed run repeats."""
        if state.is_world_process_zero:
            trim_log(self.path, state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any) -> None:
        """Write the line immediately, so that it survives if the run is killed."""
        if state.is_world_process_zero:
            line = {"step": state.global_step, "epoch": state.epoch, "time": round(time.time(), 3), **event["logs"]}
            with named_errors(self.path), self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Call `sync`: there is no further line."""
        if state.is_world_process_zero:
            self.sync()

    def sync(self) -> None:
        """Wait until the lines are on the disk."""
        if self.path.exists():
            sync(self.path)
            sync(self.path.parent)


def trim_log(path: Path, last_step: int) -> None:
    """Remove lines of later steps from a log, and those that are damaged: a kill may have cut off the last one."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    write_text(path, "".join(line for line in lines if _is_of_step(line, last_step)))


def _is_of_step(line: str, last_step: int) -> bool:
    """Whether a line is complete, undamaged and of a step up to the last one."""
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= last_step
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines that `LogLines` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def loop_seconds(lines: Sequence[dict[str, Any]]) -> float:
    """Estimate the seconds of all logged steps from the median step, which evaluations and restarts do not affect.

    Returns:
        0 where fewer than two steps were logged.
    """
    logged = [(line["step"], line["time"]) for line in lines if "loss" in line]
    step_seconds = [(later - t) / (step - s) for (s, t), (step, later) in itertools.pairwise(logged) if step > s]
    return lines[-1]["step"] * statistics.median(step_seconds) if step_seconds else 0.0
