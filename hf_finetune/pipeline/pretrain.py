"""The first stage of a run that asks for it: its checkpoint is pretrained further, on rows without labels.

DIR/pretrained holds the encoder once the stage is over, whole or not at all; the run then begins with that in the place of
its checkpoint. Until then DIR/pretraining holds checkpoints, and afterwards log.jsonl, and beside `pretrain.compare` the seconds
that the steps of both stages took.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from hf_finetune.config.recipe import Supervised
from hf_finetune.data.image_processing import check_augmentable
from hf_finetune.data.inputs import ImageInputs, TextInputs
from hf_finetune.data.splits import SET_ASIDE
from hf_finetune.errors import InputError
from hf_finetune.models.kernels.dropout import drops_out
from hf_finetune.models.safety import LocalCheckpoint, inspect_checkpoint
from hf_finetune.pipeline.context import Prepared
from hf_finetune.pipeline.run_folder import replacing
from hf_finetune.pipeline.setup import GUESSES, after_pretraining
from hf_finetune.pretraining.config import MAE, MaskedLanguage, PretrainObjective, SimCLR, SimCSE, SimMIM
from hf_finetune.pretraining.heads import MaskedAutoencoder, project
from hf_finetune.pretraining.masking import WORDS, Masking, with_words
from hf_finetune.pretraining.models import load_pretrainable, save_encoder
from hf_finetune.pretraining.trainer import (
    HELD_OUT,
    AutoencoderTrainer,
    ContrastiveTrainer,
    MaskedImageTrainer,
    MaskedLanguageTrainer,
    PretrainingTrainer,
    ViewsTrainer,
)
from hf_finetune.training.arguments import training_arguments
from hf_finetune.training.callbacks import LogLines, ProgressBar, loop_seconds, read_log
from hf_finetune.training.checkpoints import is_whole, newest_whole, seal, train_until_stopped
from hf_finetune.training.optim.config import AdamW
from hf_finetune.training.optim.schedule_config import course
from hf_finetune.utils.codec import spelled, write_json

logger = logging.getLogger("hf_finetune.run")

ENCODER, WORK, REPORT, LOG = "pretrained", "pretraining", "pretraining.json", "log.jsonl"
STAGES = f"{WORK}/stages.json"
# Of the held-out rows: more tell the loss no better than anyone needs it.
MOST_HELD_OUT = 1000
# Steps that tell what the stage takes.
STEPS_TIMED = 8
# Of `train.extra`, what says when the run evaluates, and where it reports: the stage does both in its own way.
OF_THE_RUN_ALONE = {"eval_on_start", "eval_delay", "logging_first_step", "report_to"}


@dataclass(frozen=True)
class Rows:
    """What a stage reads, encoded."""

    train: Dataset
    held_out: Dataset
    wordless: int
    """Rows without a word to be guessed, which are left out."""


def pretrain(prepared: Prepared, folder: Path, record: dict[str, Any]) -> tuple[Prepared, dict[str, Any] | None]:
    """Pretrain the run's checkpoint, unless that is done already or was not asked for.

    Args:
        folder: of the run.
        record: what recipe.json holds.

    Returns:
        The run that goes on, and what result.json says of the stage; None: there is none.

    Raises:
        StoppedBySignal: after a checkpoint.
    """
    if prepared.unlabelled is None:
        return prepared, None
    if is_whole(folder / ENCODER):
        logger.info("pretrained already: the run begins with %s", folder / ENCODER)
    else:
        _run(prepared, folder, record)
        PartialState().wait_for_everyone()
    report = json.loads((folder / ENCODER / REPORT).read_text(encoding="utf-8"))
    return after_pretraining(prepared, folder / ENCODER), report


def _run(prepared: Prepared, folder: Path, record: dict[str, Any]) -> None:
    started, state = time.perf_counter(), PartialState()
    local, rows = _checkpoint(prepared), encoded_rows(prepared)
    work = folder / WORK
    resume_from = newest_whole(work / "checkpoints")
    stage = prepare_stage(prepared, local, rows)
    if state.is_main_process:
        if not (folder / "recipe.json").exists():
            write_json(folder / "recipe.json", record)
        (work / "checkpoints").mkdir(parents=True, exist_ok=True)
    state.wait_for_everyone()
    if resume_from is not None:
        logger.info("resuming from %s of the pretraining", resume_from.name)
    logger.info(
        "pretraining by %s on %d rows, %d held out, learning rate %g",
        spelled(prepared.recipe.pretrain.objective),
        len(rows.train),
        len(rows.held_out),
        prepared.recipe.pretrain.rate,
    )
    trainer = trainer_of(stage, work, first=resume_from is None)
    bar = next(c for c in trainer.callback_handler.callbacks if isinstance(c, ProgressBar))
    try:
        train_until_stopped(trainer, resume_from, stage=" of the pretraining")
    finally:
        bar.close()
    if not state.is_main_process:
        return
    report = _report(prepared, stage, trainer, read_log(work / LOG), time.perf_counter() - started)
    with replacing(folder / ENCODER) as path:
        save_encoder(trainer.trained_model(), local, path)
        inputs = prepared.inputs
        (inputs.tokenizer if isinstance(inputs, TextInputs) else inputs.processor).save_pretrained(path)
        write_json(path / REPORT, report)
        seal(path)
    if not prepared.recipe.train.keep_checkpoints:
        shutil.rmtree(work / "checkpoints", ignore_errors=True)


def _checkpoint(prepared: Prepared) -> LocalCheckpoint:
    model = prepared.recipe.model
    return inspect_checkpoint(model.checkpoint, revision=model.revision)


def encoded_rows(prepared: Prepared) -> Rows:
    """The stage's rows as tokens or pixels, a share of them held out.

    Raises:
        InputError: hardly a row has a word that could be guessed, or the tokenizer does not fit the objective.
    """
    inputs, recipe = prepared.inputs, prepared.recipe
    assert prepared.unlabelled is not None, "somebody asked for the stage"
    whole = encoded = inputs.encode(prepared.unlabelled.rows)
    if isinstance(recipe.pretrain.objective, MaskedLanguage):
        assert isinstance(inputs, TextInputs), "checked: words are those of texts"
        words = with_words(encoded, inputs, whole_word=recipe.pretrain.objective.whole_word)
        encoded = words.select([i for i, row in enumerate(words[WORDS][:]) if max(row) >= 0])
    if len(encoded) < 2:
        raise InputError(f"pretrain.rows: {len(encoded)} rows with words to guess; expected two at least")
    # A row alone has none to be told from.
    least = 2 if isinstance(recipe.pretrain.objective, SimCSE | SimCLR) and len(encoded) > 3 else 1
    share = max(least, min(MOST_HELD_OUT, round(recipe.pretrain.held_out_fraction * len(encoded)), len(encoded) - 1))
    order = np.random.default_rng((recipe.data.split_seed, SET_ASIDE)).permutation(len(encoded))
    held_out, train = np.sort(order[:share]), np.sort(order[share:])
    return Rows(encoded.select(train), encoded.select(held_out), len(whole) - len(encoded))


@dataclass(frozen=True)
class Stage:
    """The stage before its first step: what can be refused has been looked at, and nothing is written."""

    run: Prepared
    """The run as if these were its training rows."""
    rows: Rows
    model: PreTrainedModel
    kind: Callable[..., PretrainingTrainer]
    """The objective's trainer."""
    objective: PretrainObjective
    """The recipe's, as it fits the pictures."""


def prepare_stage(prepared: Prepared, local: LocalCheckpoint, rows: Rows) -> Stage:
    """Load what is pretrained.

    Raises:
        InputError: the batches do not fit, or compare no rows where that is the objective; a field of train.extra; there is
            no mask token; the model drops nothing out, where that makes the views, or its pictures cannot be changed, where
            that does, or are of one patch, where patches are left out.
    """
    recipe, objective = prepared.recipe, prepared.recipe.pretrain.objective
    assert objective is not None, "somebody asked for the stage"
    model = load_pretrainable(
        local,
        GUESSES[type(objective)],
        dropout=recipe.model.dropout,
        attn_implementation=recipe.model.attn_implementation,
        seed=recipe.train.seed,
    )
    run = _as_a_run(prepared, rows)
    _check_batches(run, objective)
    first = run.inputs.collate(rows.train[:1])
    kind: Callable[..., PretrainingTrainer]
    match objective:
        case MaskedLanguage(share=share, span=span):
            assert isinstance(run.inputs, TextInputs), "checked: words are those of texts"
            embeddings = model.get_input_embeddings().num_embeddings
            masking = Masking.of(
                run.inputs.tokenizer, embeddings=embeddings, share=share, span=span, seed=recipe.train.seed
            )
            kind = partial(MaskedLanguageTrainer, masking=masking)
        case SimCSE():
            if not drops_out(model, first):
                raise InputError(
                    "pretrain.objective: SimCSE tells views apart by dropout, and the model drops nothing out; set "
                    "model.dropout to 0.1"
                )
            kind = partial(ContrastiveTrainer, objective=objective)
        case SimMIM():
            picture = tuple(first["pixel_values"].shape[1:])
            objective = _with_something_to_see(objective, model.config.patch_size, picture)
            kind = partial(MaskedImageTrainer, objective=objective, picture=picture)
        case MAE(decoder_layers=layers, decoder_width=width):
            picture = tuple(first["pixel_values"].shape[1:])
            objective = _with_something_to_see(objective, model.config.patch_size, picture)
            model = MaskedAutoencoder(model, layers=layers, width=width, picture=picture, seed=recipe.train.seed)
            kind = partial(AutoencoderTrainer, objective=objective, picture=picture)
        case SimCLR(projection=width):
            assert isinstance(run.inputs, ImageInputs) and prepared.unlabelled is not None, "checked: it is of pictures"
            check_augmentable(run.inputs.processor, prepared.unlabelled.rows["image"], "pretrain.objective SimCLR")
            project(model, width, seed=recipe.train.seed)
            kind = partial(ViewsTrainer, objective=objective)
    stage = Stage(run, rows, model, kind, objective)
    arguments_of(stage, Path())  # what they refuse is refused now
    return stage


def _check_batches(run: Prepared, objective: PretrainObjective) -> None:
    """Refuse steps that cannot be cut as they are to be, and forward passes of one row where rows are told from one another."""
    batches = run.batches(run.inputs.lengths(run.splits.train))
    if not isinstance(objective, SimCSE | SimCLR):
        return
    if max(map(len, batches.step_rows())) <= batches.accumulation * batches.processes:
        raise InputError(
            f"pretrain.objective: {type(objective).__name__} tells a row from the others of its forward pass, and here that has one "
            "row; raise train.per_device_train_batch_size, batching.rows_per_step or batching.token_budget"
        )


def _with_something_to_see(objective: SimMIM | MAE, patch: int, picture: tuple[int, ...]) -> SimMIM | MAE:
    """The objective with squares that leave a part of the picture; of MAE they are its patches.

    Args:
        patch: side in pixels.
        picture: C, H, W.

    Raises:
        InputError: the picture is a single patch.
    """
    _, height, width = picture
    if height // patch * (width // patch) < 2:
        raise InputError(
            f"pretrain.objective: {type(objective).__name__} leaves patches out, and a picture of {height} x {width} pixels is a "
            f"single one of {patch}; expected SimCLR, or a checkpoint with smaller patches"
        )
    most = max(1, min(height, width) // patch // 2) * patch
    if isinstance(objective, MAE) or round(objective.block / patch) * patch <= most:
        return objective
    logger.info(
        "pretrain.objective.block: %d here, not %d, of pictures of %d x %d pixels: a part of each is to be seen",
        most,
        objective.block,
        height,
        width,
    )
    return replace(objective, block=most)


def trainer_of(stage: Stage, work: Path, *, first: bool, saving: bool = True) -> PretrainingTrainer:
    """The stage's trainer.

    Args:
        work: takes checkpoints and log.jsonl.
        first: it begins now: the held-out rows are scored before the first step, too.
        saving: write checkpoints.
    """
    run, recipe = stage.run, stage.run.recipe
    model = stage.model.to(run.device)
    run.kernels.switch_on(model)
    trainer = stage.kind(
        model,
        arguments_of(stage, work, first=first, saving=saving),
        train_rows=stage.rows.train,
        validation_rows=stage.rows.held_out,
        inputs=run.inputs,
        rows_per_step=run.micro_batch[2],
        by_length=recipe.batching.by_length,
        token_budget=recipe.batching.token_budget,
        shortcuts=run.shortcuts,
        course=course(None, warmup_steps=None, optimizer=AdamW()),
        callbacks=[ProgressBar(HELD_OUT, "pretrain"), LogLines(work / LOG)],
    )
    trainer.remove_callback(PrinterCallback)
    if not saving:
        trainer.args.save_strategy, trainer.args.load_best_model_at_end = SaveStrategy.NO, False
    return trainer


def arguments_of(stage: Stage, work: Path, *, first: bool = True, saving: bool = True) -> TrainingArguments:
    """Of the stage's trainer, see `trainer_of`; also what `train.extra` says of the loader, memory, processes and the like.

    Raises:
        InputError: see `training_arguments`.
    """
    run, pretrain, train = stage.run, stage.run.recipe.pretrain, stage.run.recipe.train
    micro_batch, accumulation, _ = run.micro_batch
    return training_arguments(
        work / "checkpoints",
        learning_rate=pretrain.rate,
        metric=HELD_OUT,
        device=run.device,
        mixed_precision=run.kernels.mixed_precision,
        extra={name: value for name, value in train.extra.items() if name not in OF_THE_RUN_ALONE},
        num_train_epochs=pretrain.num_train_epochs,
        max_steps=pretrain.max_steps,
        per_device_train_batch_size=micro_batch,
        per_device_eval_batch_size=train.per_device_eval_batch_size,
        gradient_accumulation_steps=accumulation,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        seed=train.seed,
        logging_steps=train.logging_steps if saving else 1,
        eval_on_start=first and saving,
    )


def _as_a_run(prepared: Prepared, rows: Rows) -> Prepared:
    """The run as its batches would be cut if these were its training rows."""
    recipe = prepared.recipe
    return replace(
        prepared,
        # Where passes of few pictures are faster a step is cut into such; here that would leave each fewer to be told from.
        picture_tokens=None if isinstance(recipe.pretrain.objective, SimCLR) else prepared.picture_tokens,
        recipe=replace(recipe, objective=Supervised(), batching=replace(recipe.batching, sampling="none")),
        splits=replace(prepared.splits, train=rows.train, validation=rows.held_out, test=None),
    )


def estimate(prepared: Prepared, work: Path) -> float:
    """Seconds that the stage takes, by a few of its steps, of evenly spread sizes; nothing is kept but what is in `work`."""
    started = time.perf_counter()
    rows, pretrain = encoded_rows(prepared), prepared.recipe.pretrain
    encode_s = time.perf_counter() - started
    lengths = prepared.inputs.lengths(rows.train)
    steps = _as_a_run(prepared, rows).batches(lengths).step_rows()
    sizes = np.array([len(step) if lengths is None else len(step) * int(lengths[step].max()) for step in steps])
    chosen = np.argsort(sizes, kind="stable")[np.linspace(0, len(sizes) - 1, STEPS_TIMED).round().astype(int)]
    few = np.unique(np.concatenate([steps[i] for i in chosen]))
    recipe = replace(prepared.recipe, pretrain=replace(pretrain, num_train_epochs=1.0, max_steps=-1))
    timed = replace(rows, train=rows.train.select(few), held_out=rows.held_out.select([0]))
    stage = prepare_stage(replace(prepared, recipe=recipe), _checkpoint(prepared), timed)
    trainer = trainer_of(stage, work, first=False, saving=False)
    trainer.train()
    share = sizes.sum() / sizes[np.unique(chosen)].sum()
    epochs = pretrain.num_train_epochs if pretrain.max_steps < 0 else pretrain.max_steps / len(steps)
    # A held-out row goes forward alone, a third of what training on it takes.
    scored = len(rows.held_out) / len(rows.train) / 3
    return encode_s + loop_seconds(read_log(work / LOG)) * share * epochs * (1 + scored)


def _report(
    prepared: Prepared, stage: Stage, trainer: PretrainingTrainer, lines: Sequence[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    """What result.json says of the stage."""
    assert prepared.unlabelled is not None
    counts, rows = prepared.unlabelled.counts, stage.rows
    losses = [line["loss"] for line in lines if "loss" in line]
    held_out = [line[f"eval_{HELD_OUT}"] for line in lines if f"eval_{HELD_OUT}" in line]
    return {
        "objective": spelled(stage.objective),
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
        "loop_s": round(trainer.all_loop_seconds, 2),
    }
