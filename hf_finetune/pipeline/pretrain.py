"""Pretrain the checkpoint further on unlabeled rows, if the recipe asks for it.

DIR/pretrained holds the pretrained encoder, complete or not at all. The run continues with it in place of its
checkpoint. DIR/pretraining holds log.jsonl and, during the stage, its checkpoints.
"""

import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from transformers import PreTrainedModel

from hf_finetune.models.checkpoint import inspect_checkpoint
from hf_finetune.pipeline.build_model import build_model
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.pretrain_setup import (
    PretrainingSetup,
    build_trainer,
    setup_pretraining,
    split_pretraining_rows,
)
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.run_folder import replacing
from hf_finetune.pretraining.models import save_encoder
from hf_finetune.pretraining.trainer import HELD_OUT, PretrainingTrainer
from hf_finetune.training.callbacks import LOG, ProgressBar, trim_log
from hf_finetune.training.checkpoints import (
    SaveInterval,
    is_whole,
    newest_whole,
    saved_state,
    seal,
    train_until_stopped,
)
from hf_finetune.training.trackers.base import NO_TRACKERS, PRETRAIN, RunTrackers
from hf_finetune.utils.files import discard, make_folder, write_json
from hf_finetune.utils.messages import counted
from hf_finetune.utils.plain import short_repr

logger = logging.getLogger("hf_finetune.run")

ENCODER, WORK, REPORT = "pretrained", "pretraining", "pretraining.json"


@dataclass(frozen=True)
class Pretraining:
    """A finished pretraining stage."""

    report: dict[str, Any]
    """Its section of result.json."""
    seconds: float
    """Seconds of the whole stage."""
    loop_s: float
    """Seconds of its optimizer steps."""


def pretrain(
    run: Run, folder: Path, record: RunRecord, trackers: RunTrackers = NO_TRACKERS
) -> tuple[Run, Pretraining | None]:
    """Pretrain the checkpoint of the run, unless it is done already or the recipe does not ask for it.

    Returns:
        The run with the pretrained encoder in place of its checkpoint, and the finished stage.

    Raises:
        StoppedBySignal: after a checkpoint.
    """
    if run.data.pretraining_rows is None:
        return run, None
    encoder = folder / ENCODER
    if is_whole(encoder):
        logger.info("pretrained already: the run starts from %s", encoder)
    else:
        _pretrain(run, folder, record, trackers)
    # Those of a run that was killed when it had just pretrained, too.
    if PartialState().is_main_process and not run.recipe.train.keep_checkpoints:
        discard(folder / WORK / "checkpoints")
    PartialState().wait_for_everyone()
    report = json.loads((encoder / REPORT).read_text(encoding="utf-8"))
    limits = run.context.checkpoint.limits
    pretrained = replace(run.recipe, model=replace(run.recipe.model, from_config=None, tokenizer=None))
    context = replace(run.context, recipe=pretrained, checkpoint=inspect_checkpoint(encoder, limits=limits))
    model = build_model(context, run.data)
    # The saved model names the checkpoint that others have, not the folder of this stage.
    model.network.name_or_path = model.network.config.name_or_path = run.model.network.name_or_path
    return replace(run, model=model), Pretraining(report, report["seconds"], report["loop_s"])


def _pretrain(run: Run, folder: Path, record: RunRecord, trackers: RunTrackers) -> None:
    started, state, work = time.perf_counter(), PartialState(), folder / WORK
    rows = split_pretraining_rows(run)
    resume_from = newest_whole(work / "checkpoints")
    setup = setup_pretraining(run, rows)
    if state.is_main_process:
        if not (folder / "recipe.json").exists():
            record.write(folder)
        make_folder(work / "checkpoints")
    state.wait_for_everyone()
    if resume_from is not None:
        logger.info("resuming from %s of the pretraining", resume_from.name)
        if state.is_main_process:
            trim_log(work / LOG, saved_state(resume_from).global_step)
    logger.info(
        "pretraining by %s on %s, %d held out, learning rate %g",
        short_repr(run.recipe.pretrain.objective),
        counted(len(rows.train), "row"),
        len(rows.held_out),
        run.recipe.pretrain.rate,
    )
    trainer = build_trainer(setup, work, eval_on_start=resume_from is None)
    for callback in trackers.callbacks(PRETRAIN):
        trainer.add_callback(callback)
    bar = next(c for c in trainer.callback_handler.callbacks if isinstance(c, ProgressBar))
    try:
        train_until_stopped(trainer, resume_from, SaveInterval.of(run.recipe.train), stage=" of the pretraining")
    finally:
        bar.close()
    if state.is_main_process:
        _save(setup, trainer, folder, seconds=time.perf_counter() - started)


def _save(setup: PretrainingSetup, trainer: PretrainingTrainer, folder: Path, *, seconds: float) -> None:
    """Write DIR/pretrained: the encoder, its tokenizer or image processor, and the report."""
    with replacing(folder / ENCODER) as path:
        save_encoder(cast(PreTrainedModel, trainer.trained_model()), setup.run.context.checkpoint, path)
        setup.run.data.inputs.save(path)
        write_json(path / REPORT, _report(setup, trainer, seconds))
        seal(path)


def _report(setup: PretrainingSetup, trainer: PretrainingTrainer, seconds: float) -> dict[str, Any]:
    assert setup.run.data.pretraining_rows is not None, "the recipe pretrains"
    counts, rows = setup.run.data.pretraining_rows.counts, setup.rows
    # Not from log.jsonl, of which a kill may have taken the last lines.
    lines = trainer.state.log_history
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
