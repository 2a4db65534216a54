"""Pretrain the run's checkpoint further, on rows without labels, where its recipe asks for it.

DIR/pretrained holds the encoder once this is over, whole or not at all; the run then begins with that in the place of
its checkpoint. DIR/pretraining holds checkpoints until then, and log.jsonl; with `pretrain.compare` also the seconds
that the steps of both stages took.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from accelerate import PartialState
from transformers import PreTrainedModel

from hf_finetune.models.safety import inspect_checkpoint
from hf_finetune.pipeline.build_model import build_model, narrow_last_layer
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.pretrain_setup import (
    LOG,
    PretrainingSetup,
    build_trainer,
    encode_pretraining_rows,
    pretraining_steps,
    set_up,
)
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.run_folder import replacing
from hf_finetune.pretraining.models import save_encoder
from hf_finetune.pretraining.trainer import HELD_OUT, PretrainingTrainer
from hf_finetune.training.callbacks import ProgressBar, loop_seconds, read_log
from hf_finetune.training.checkpoints import is_whole, newest_whole, seal, train_until_stopped
from hf_finetune.utils.files import write_json
from hf_finetune.utils.plain import short_repr

logger = logging.getLogger("hf_finetune.run")

ENCODER, WORK, REPORT = "pretrained", "pretraining", "pretraining.json"
# Steps that tell what pretraining takes.
STEPS_TIMED = 8


@dataclass(frozen=True)
class Pretraining:
    """A pretraining that is over."""

    report: dict[str, Any]
    """As result.json has it."""

    @property
    def seconds(self) -> float:
        """Of all of it."""
        return self.report["seconds"]

    @property
    def loop_s(self) -> float:
        """Of its optimizer steps."""
        return self.report["loop_s"]


def pretrain(run: PreparedRun, folder: Path, record: RunRecord) -> tuple[PreparedRun, Pretraining | None]:
    """Pretrain the run's checkpoint, unless that is done already or the recipe does not ask for it.

    Returns:
        The run that goes on, with the encoder that this left in the place of its checkpoint; and what came of it.

    Raises:
        StoppedBySignal: after a checkpoint.
    """
    if run.data.pretraining_rows is None:
        return run, None
    encoder = folder / ENCODER
    if is_whole(encoder):
        logger.info("pretrained already: the run begins with %s", encoder)
    else:
        _pretrain(run, folder, record)
        PartialState().wait_for_everyone()
    report = json.loads((encoder / REPORT).read_text(encoding="utf-8"))
    model = build_model(replace(run.context, checkpoint=inspect_checkpoint(encoder)), run.data)
    # What it is called by everyone else.
    model.network.name_or_path = model.network.config.name_or_path = run.model.network.name_or_path
    run = replace(run, model=model)
    narrow_last_layer(run)
    return run, Pretraining(report)


def _pretrain(run: PreparedRun, folder: Path, record: RunRecord) -> None:
    started, state, work = time.perf_counter(), PartialState(), folder / WORK
    rows = encode_pretraining_rows(run)
    resume_from = newest_whole(work / "checkpoints")
    setup = set_up(run, rows)
    if state.is_main_process:
        if not (folder / "recipe.json").exists():
            record.write(folder)
        (work / "checkpoints").mkdir(parents=True, exist_ok=True)
    state.wait_for_everyone()
    if resume_from is not None:
        logger.info("resuming from %s of the pretraining", resume_from.name)
    logger.info(
        "pretraining by %s on %d rows, %d held out, learning rate %g",
        short_repr(run.recipe.pretrain.objective),
        len(rows.train),
        len(rows.held_out),
        run.recipe.pretrain.rate,
    )
    trainer = build_trainer(setup, work, first=resume_from is None)
    bar = next(c for c in trainer.callback_handler.callbacks if isinstance(c, ProgressBar))
    try:
        train_until_stopped(trainer, resume_from, stage=" of the pretraining")
    finally:
        bar.close()
    if state.is_main_process:
        _save(setup, trainer, folder, seconds=time.perf_counter() - started)
        if not run.recipe.train.keep_checkpoints:
            shutil.rmtree(work / "checkpoints", ignore_errors=True)


def _save(setup: PretrainingSetup, trainer: PretrainingTrainer, folder: Path, *, seconds: float) -> None:
    """Write DIR/pretrained: the encoder, its tokenizer or image processor, and the report."""
    inputs = setup.run.data.inputs
    with replacing(folder / ENCODER) as path:
        save_encoder(cast(PreTrainedModel, trainer.trained_model()), setup.run.context.checkpoint, path)
        inputs.save(path)
        write_json(path / REPORT, _report(setup, trainer, folder / WORK / LOG, seconds))
        seal(path)


def _report(setup: PretrainingSetup, trainer: PretrainingTrainer, log: Path, seconds: float) -> dict[str, Any]:
    """What result.json says of the pretraining."""
    assert setup.run.data.pretraining_rows is not None
    counts, rows, lines = setup.run.data.pretraining_rows.counts, setup.rows, read_log(log)
    losses = [line["loss"] for line in lines if "loss" in line]
    held_out = [line[f"eval_{HELD_OUT}"] for line in lines if f"eval_{HELD_OUT}" in line]
    return {
        "objective": short_repr(setup.task.objective),
        "rows": {
            "pretrained": len(rows.train),
            "held_out": len(rows.held_out),
            "of_train": counts["train"],
            "of_further": counts["further"],
        },
        "left_out": {
            "evaluated": counts["evaluated"],
            "repeated": counts["repeated"],
            "unusable": counts["unusable"] + rows.wordless,
        },
        "learning_rate": trainer.args.learning_rate,
        "steps": trainer.state.global_step,
        "kept_step": trainer.state.best_global_step,
        "loss": {"first": losses[0], "last": losses[-1]},
        "held_out_loss": {"first": held_out[0], "last": held_out[-1], "kept": trainer.state.best_metric},
        "seconds": round(seconds, 2),
        "loop_s": round(trainer.clock.total, 2),
    }


def estimate(run: PreparedRun, work: Path) -> float:
    """Seconds that pretraining takes, by a few steps of evenly spread sizes; nothing is written but to `work`."""
    started = time.perf_counter()
    rows, pretrain = encode_pretraining_rows(run), run.recipe.pretrain
    encode_s = time.perf_counter() - started
    lengths, steps = run.data.inputs.lengths(rows.train), pretraining_steps(run, rows)
    sizes = np.array([len(step) if lengths is None else len(step) * int(lengths[step].max()) for step in steps])
    chosen = np.argsort(sizes, kind="stable")[np.linspace(0, len(sizes) - 1, STEPS_TIMED).round().astype(int)]
    few = np.unique(np.concatenate([steps[i] for i in chosen]))
    recipe = replace(run.recipe, pretrain=replace(pretrain, num_train_epochs=1.0, max_steps=-1))
    timed = replace(rows, train=rows.train.select(few), held_out=rows.held_out.select([0]))
    trainer = build_trainer(set_up(run.varied(recipe=recipe), timed), work, first=False, saving=False)
    trainer.train()
    share = sizes.sum() / sizes[np.unique(chosen)].sum()
    epochs = pretrain.num_train_epochs if pretrain.max_steps < 0 else pretrain.max_steps / len(steps)
    # A held-out row goes forward alone, a third of what training on it takes.
    scored = len(rows.held_out) / len(rows.train) / 3
    return encode_s + loop_seconds(read_log(work / LOG)) * share * epochs * (1 + scored)
