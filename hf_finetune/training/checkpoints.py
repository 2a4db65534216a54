"""Sealed checkpoints: each is written under a temporary name, and gets its own when it is complete.

Its manifest of hashes tells later damage.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.models.peft import state as adapter_state
from hf_finetune.training.config import Train
from hf_finetune.training.distributed import in_any_process
from hf_finetune.training.soup import ingredients
from hf_finetune.utils import hashing
from hf_finetune.utils.durations import parse_duration
from hf_finetune.utils.exit_status import handled, leave_lost_terminal
from hf_finetune.utils.files import discard, put_in_place, write_json

logger = logging.getLogger("hf_finetune")
MANIFEST = "manifest.json"


def seal(checkpoint: Path, beside: Sequence[Path] = ()) -> None:
    """Write the manifest of a finished checkpoint: the SHA-256 of each file.

    Args:
        beside: files outside the checkpoint that a resumed run needs as well.
    """
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != MANIFEST)
    hashes = {os.path.relpath(path, checkpoint): hashing.of_files(path) for path in (*files, *beside)}
    write_json(checkpoint / MANIFEST, hashes)


def staged(folder: Path, step: int) -> Path:
    """Return where all processes write the checkpoint of a step. A resumed run removes it where a kill leaves it."""
    return folder / f".checkpoint-{step}.partial"


def commit(folder: Path, step: int) -> None:
    """Seal a staged checkpoint, to which every process has written its part, and give it its name."""
    checkpoint = staged(folder, step)
    seal(checkpoint, beside=ingredients(folder, step))
    put_in_place(checkpoint, folder / f"checkpoint-{step}")


def is_whole(checkpoint: Path) -> bool:
    """Return whether all files of the checkpoint match its manifest."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and all(
        (checkpoint / name).is_file() and hashing.of_files(checkpoint / name) == digest
        for name, digest in manifest.items()
    )


def newest_whole(folder: Path) -> Path | None:
    """Return the latest whole checkpoint whose best checkpoint is whole too, or None.

    Each damaged or unfinished checkpoint on the way is logged as a warning.
    """
    for checkpoint in reversed(_by_step(folder)):
        if not is_whole(checkpoint):
            logger.warning("%s is unfinished or damaged: using the one before", checkpoint.name)
            continue
        best = saved_state(checkpoint).best_global_step
        of_best = folder / f"checkpoint-{best}"
        if not best or of_best == checkpoint or is_whole(of_best):
            return checkpoint
        logger.warning(
            "%s cannot be used, checkpoint-%d with the best weights is damaged: using the one before",
            checkpoint.name,
            best,
        )
    return None


def save_weights(model: nn.Module, checkpoint: Path, state_dict: dict | None, *, is_main: bool) -> None:
    """Save weights under the names that `load_state_dict` expects.

    The Trainer saves ViT, DINOv2, Swin and similar models under the names of former versions and does not find them
    again: the best epoch is not restored, and a resumed run continues with pretrained layers.

    Args:
        state_dict: the model's state; None: read it from the model.
        is_main: whether this process writes.
    """
    if isinstance(model, PreTrainedModel):
        model.save_pretrained(checkpoint, state_dict=state_dict, is_main_process=is_main, save_original_format=False)
    else:
        assert isinstance(model, PeftModel), "a transformers model, or an adapter on one"
        adapter_state.save_state(model, checkpoint)


def refuse_missing(model: nn.Module, missing: Iterable[str], output: str) -> None:
    """Refuse a checkpoint that lacks weights. The Trainer would keep the model's initial ones.

    Args:
        missing: the model's weights that the checkpoint lacks.
        output: the run's folder.

    Raises:
        InputError: names one of them.
    """
    if not isinstance(model, PreTrainedModel):
        return
    # Tied weights are saved once, under another name.
    if lost := set(missing) - set(model._keys_to_ignore_on_save or ()) - set(model.all_tied_weights_keys):
        raise InputError(
            f"{output}: the newest checkpoint lacks {len(lost)} of the model's weights "
            f"({min(lost)}, ...); start the run anew in another --output"
        )


def saved_state(checkpoint: Path) -> TrainerState:
    """Read the trainer's state from a checkpoint."""
    return TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


def is_over(state: TrainerState) -> bool:
    """Return whether training had ended: all steps were taken, or early stopping ended it."""
    callbacks: Any = state.stateful_callbacks
    control = callbacks.get("TrainerControl")
    return bool(control and control["args"]["should_training_stop"])


def _by_step(folder: Path) -> list[Path]:
    steps = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*") if path.is_dir()}
    return sorted((path for path in steps if steps[path].isdigit()), key=lambda path: int(steps[path]))


def _delete_old(folder: Path, step: int) -> None:
    """Delete the checkpoints that a run which has just saved `step` does not need.

    The last two stay, and those with the best weights at their time, without which they cannot be used. A killed run
    may have left ones of later steps, which are repeated.
    """
    saved = _by_step(folder)
    usable = [c for c in saved if (c / MANIFEST).is_file() and int(c.name.removeprefix("checkpoint-")) <= step]
    needed = {c.name for c in usable[-2:]} | {f"checkpoint-{saved_state(c).best_global_step}" for c in usable[-2:]}
    for checkpoint in saved:
        if checkpoint.name not in needed:
            discard(checkpoint)


@dataclass(frozen=True)
class SaveInterval:
    """How often checkpoints are saved within an epoch."""

    steps: int | None = None
    """Optimizer steps between two."""
    seconds: float | None = None
    """Seconds between two."""

    @classmethod
    def of(cls, train: Train) -> SaveInterval:
        """Return the interval that a recipe asks for."""
        return cls(train.save_steps, None if train.save_every is None else parse_duration(train.save_every))


class CheckpointKeeper(TrainerCallback):
    """Saves within an epoch, deletes old checkpoints, and stops at a checkpoint after a signal.

    Args:
        signals: filled by `catching_signals`.
    """

    def __init__(self, signals: list[int], interval: SaveInterval = SaveInterval()) -> None:
        self.signals, self.interval = signals, interval
        self._saved_at = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Start the time of `train.save_every`."""
        self._saved_at = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        """Request a checkpoint after a signal and in the intervals, unless this step ends an epoch, which is evaluated
        and saved anyway."""
        stopped, is_due = in_any_process(args, bool(self.signals), self._is_time_up())
        if stopped and not self.signals:
            self.signals.append(signal.SIGTERM)
        is_due |= self.interval.steps is not None and state.global_step % self.interval.steps == 0
        ends_epoch = control.should_training_stop or float(state.epoch or 0.0).is_integer()
        if (stopped or is_due) and not ends_epoch:
            control.should_save = True
        return control

    def _is_time_up(self) -> bool:
        return self.interval.seconds is not None and time.monotonic() - self._saved_at >= self.interval.seconds

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Delete the checkpoints that are not needed any more, and stop after a signal."""
        (stopped,) = in_any_process(args, bool(self.signals))
        if stopped and not self.signals:
            self.signals.append(signal.SIGTERM)
        self._saved_at = time.monotonic()
        if args.should_save:
            _delete_old(Path(args.output_dir or ""), state.global_step)
        if stopped:
            name = signal.Signals(self.signals[0]).name
            raise StoppedBySignal(
                f"stopped by {name} after saving step {state.global_step}; --resume goes on from there"
            )


@contextmanager
def catching_signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP in the block instead of exiting.

    A second SIGINT or SIGTERM exits as usual. A closed terminal sends SIGHUP twice: by the system and by its shell.
    """
    arrived: list[int] = []

    def note(number: int, _frame: object) -> None:
        arrived.append(number)
        if number == signal.SIGHUP:
            leave_lost_terminal()
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)

    numbers = handled(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_until_stopped(
    trainer: Trainer, resume_from: Path | None, interval: SaveInterval = SaveInterval(), *, stage: str = ""
) -> None:
    """Train to the end, or until a signal has led to a checkpoint.

    Args:
        resume_from: checkpoint to resume from; None: start at the first step.
        interval: how often checkpoints are saved within an epoch.
        stage: names the stage in the message: " of the pretraining".

    Raises:
        StoppedBySignal: after a checkpoint.
        InputError: a file of the checkpoint is a pickle of something else than weights and numbers.
    """
    with catching_signals() as signals:
        trainer.add_callback(CheckpointKeeper(signals, interval))
        try:
            trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
        except pickle.UnpicklingError as error:
            why = "a file of it holds more than weights and numbers and is not read, it could run code"
            raise InputError(
                f"{resume_from}: {why}; remove this checkpoint, then --resume takes the one before"
            ) from error
    if signals:
        raise StoppedBySignal(f"stopped by a signal after the last step{stage}; --resume goes on from there")
