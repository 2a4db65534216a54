"""Sealed checkpoints: a manifest of hashes, written last, marks a checkpoint as complete."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.models.peft import state as adapter_state
from hf_finetune.training.soup import ingredients
from hf_finetune.utils import hashing
from hf_finetune.utils.files import write_json

logger = logging.getLogger("hf_finetune")
MANIFEST = "manifest.json"


def seal(checkpoint: Path, beside: Sequence[Path] = ()) -> None:
    """Write the manifest of a finished checkpoint: the SHA-256 of each of its files.

    Args:
        beside: files outside the checkpoint that a resumed run needs as well.
    """
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != MANIFEST)
    hashes = {os.path.relpath(path, checkpoint): hashing.of_files(path) for path in (*files, *beside)}
    write_json(checkpoint / MANIFEST, hashes)


def is_whole(checkpoint: Path) -> bool:
    """Return whether all files of the checkpoint match its manifest."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    return all(
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
        if not best or is_whole(folder / f"checkpoint-{best}"):
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


class CheckpointKeeper(TrainerCallback):
    """Seals each checkpoint, deletes all but the last two and the best, and stops at a checkpoint after a signal.

    Args:
        signals: filled by `catching_signals`.
    """

    def __init__(self, signals: list[int]) -> None:
        self.signals = signals

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        """Request a checkpoint after a signal, unless this step ends an epoch, which is evaluated and saved anyway."""
        if self._stopped(args) and not control.should_training_stop and not float(state.epoch or 0.0).is_integer():
            control.should_save = True
        return control

    def _stopped(self, args: TrainingArguments) -> bool:
        """Return whether any process got a signal: all must save and stop at the same step."""
        if args.world_size > 1:
            stop = torch.tensor(float(bool(self.signals)), device=args.device)
            torch.distributed.all_reduce(stop)
            if stop and not self.signals:
                self.signals.append(signal.SIGTERM)
        return bool(self.signals)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Seal the checkpoint when every process has written its part."""
        folder = Path(args.output_dir or "")
        # Also a barrier: waits for all processes.
        stopped = self._stopped(args)
        if args.should_save:
            seal(folder / f"checkpoint-{state.global_step}", beside=ingredients(folder, state.global_step))
            best = Path(state.best_model_checkpoint).name if state.best_model_checkpoint else None
            for old in _by_step(folder)[:-2]:
                if old.name != best:
                    shutil.rmtree(old)
        if stopped:
            name = signal.Signals(self.signals[0]).name
            raise StoppedBySignal(
                f"stopped by {name} after saving step {state.global_step}; --resume goes on from there"
            )


@contextmanager
def catching_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in the block instead of exiting. A second signal of a kind exits as usual."""
    arrived: list[int] = []

    def note(number: int, _frame: object) -> None:
        arrived.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_until_stopped(trainer: Trainer, resume_from: Path | None, *, stage: str = "") -> None:
    """Train to the end, or until a signal has led to a checkpoint.

    Args:
        resume_from: checkpoint to resume from; None: start at the first step.
        stage: names the stage in the message: " of the pretraining".

    Raises:
        StoppedBySignal: after a checkpoint.
    """
    with catching_signals() as signals:
        trainer.add_callback(CheckpointKeeper(signals))
        trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
    if signals:
        raise StoppedBySignal(f"stopped by a signal after the last step{stage}; --resume goes on from there")
