"""The one page on which the data flows: recipe -> data -> model -> training -> evaluation -> parity gate -> card -> Hub."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback
from transformers.trainer_utils import SaveStrategy

from hf_finetune.augmentation.generative.paraphraser import checkpoint_digests
from hf_finetune.augmentation.offline import with_copies, without_scored
from hf_finetune.config.recipe import Averaging, Distill, ImageData, Launch, Recipe, Supervised
from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.data.provenance import start_overlaps
from hf_finetune.distillation.trainer import DistillationTrainer
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.evaluation.metrics import classification_metrics, softmax
from hf_finetune.features.frozen_layers import TrainingRows, cache_frozen_layers
from hf_finetune.hub.push import check_target
from hf_finetune.models.peft.compatibility import begins_silent
from hf_finetune.pipeline.before_training import (
    adapter_penalty,
    ask_teacher,
    choose_kernels,
    keep_start,
    mixout,
    regularizers,
    search_layers,
    warm_start_head,
    what_trains,
)
from hf_finetune.pipeline.context import Prepared
from hf_finetune.pipeline.finalize import WITHOUT, finish
from hf_finetune.pipeline.pretrain import STAGES, pretrain
from hf_finetune.pipeline.run_folder import kept_choice, output_folder, plain_disk_errors, refuse_changes
from hf_finetune.pipeline.setup import prepare, with_adapter
from hf_finetune.pretraining.config import Pretrain
from hf_finetune.training import precision, probe
from hf_finetune.training.arguments import training_arguments
from hf_finetune.training.averaging import Averages, Ema, Tail
from hf_finetune.training.callbacks import LogLines, ProgressBar
from hf_finetune.training.checkpoints import newest_whole, train_until_stopped
from hf_finetune.training.distributed import plain_peer_errors
from hf_finetune.training.optim.sam import Sharpness
from hf_finetune.training.soup import Soup
from hf_finetune.training.trainer import ClassifierTrainer
from hf_finetune.utils import environment, hashing
from hf_finetune.utils.codec import to_plain, write_json
from hf_finetune.utils.exit_status import notes_afterwards

# A run's own notes; those of the loaders below are said again here once all input has been found good.
logger = logging.getLogger("hf_finetune.run")


def run(recipe: Recipe, launch: Launch = Launch(), *, command: str | None = None) -> dict[str, Any] | None:
    """Train, evaluate, verify, document and, if asked, publish.

    Args:
        recipe: what to compute.
        launch: where to write, whether to resume.
        command: the command line that reproduces the run, for the card.

    Returns:
        The content of result.json, and its `folder`; None in all processes but the main one.

    Raises:
        InputError: bad data, checkpoint, fields or output folder, or no way to push; nothing was written.
        TrainingError: the loss or the weights are not finite, or the disk is full.
        StoppedBySignal: after a checkpoint; `launch.resume` goes on.
        GateError: a saved artefact does not reproduce the model.
        PushError: the Hub refused the finished run, or kept failing.
    """
    folder = output_folder(recipe.name, launch.output, resume=launch.resume)
    if recipe.hub.repo_id is not None:
        check_target(recipe.hub.repo_id, recipe.hub.revision, recipe.hub.create_pr)
    prepared = prepare(recipe)
    if PartialState().is_main_process and (start := recipe.starts_from) is not None:
        notes = (*prepared.notes, *start_overlaps(start, prepared.splits))
        prepared = dataclasses.replace(prepared, notes=notes)
    if launch.num_processes not in (None, prepared.processes):
        raise InputError(f"--num-processes {launch.num_processes}: {prepared.processes} process(es) were started")
    record = _record(prepared, command)
    if launch.resume and (folder / "recipe.json").exists():
        record = _as_it_was(prepared, record, folder)
        refuse_changes(folder, record)
    elif launch.resume:
        logger.info("nothing to resume in %s: the run starts anew", folder)
    with plain_disk_errors(folder), plain_peer_errors(), precision.settings_restored():
        prepared, pretrained = pretrain(prepared, folder, record)
        trainer, seconds, found = _train(prepared, folder, record)
        if pretrained is not None:
            seconds["pretrain_s"] = pretrained["seconds"]
        found |= {"pretrain": pretrained, "stages": None}
        if pretrained is not None and recipe.pretrain.compare:
            # Before the processes meet: none has begun it in this run.
            begun = (folder / WITHOUT).exists()
            found["stages"] = _stages(folder, pretrained["loop_s"], trainer.all_loop_seconds)
            _without_pretraining(recipe, folder, found["stages"], resume=begun)
    if not PartialState().is_main_process:
        return None
    try:
        with plain_disk_errors(folder):
            return finish(prepared, trainer, folder, record, seconds, found)
    except KeyboardInterrupt:
        raise StoppedBySignal("stopped by a signal after training; --resume goes on from there") from None


def _stages(folder: Path, pretrain_s: float, train_s: float) -> dict[str, float]:
    """What the steps of either stage took, in seconds, as it was measured when they ended.

    Measured again after a restart it would be a little different, and so would be the epochs of a run that goes on.
    """
    path = folder / STAGES
    if PartialState().is_main_process and not path.exists():
        write_json(path, {"pretrain_s": pretrain_s, "train_s": train_s})
    PartialState().wait_for_everyone()
    return json.loads(path.read_text(encoding="utf-8"))


def _without_pretraining(recipe: Recipe, folder: Path, stages: dict[str, float], *, resume: bool) -> None:
    """Run the recipe without its first stage in DIR/without, for so many more epochs that it trains for as long in all.

    Args:
        folder: of the run.
        stages: see `_stages`.
        resume: it was begun before.
    """
    without, train = folder / WITHOUT, recipe.train
    if (without / "result.json").exists():
        return
    longer = 1 + stages["pretrain_s"] / stages["train_s"]
    logger.info("the same without pretraining, with %.3g times the epochs", longer)
    steps = -1 if train.max_steps < 0 else math.ceil(longer * train.max_steps)
    train = dataclasses.replace(train, num_train_epochs=longer * train.num_train_epochs, max_steps=steps)
    alone = dataclasses.replace(
        recipe, pretrain=Pretrain(), train=train, hub=dataclasses.replace(recipe.hub, repo_id=None)
    )
    run(alone, Launch(str(without), resume=resume))


def _record(prepared: Prepared, command: str | None) -> dict[str, Any]:
    """What recipe.json holds: enough to run it again."""
    asked = checkpoint_digests(prepared.recipe.data.augment)
    return {
        "recipe": to_plain(prepared.recipe),
        "fingerprint": prepared.splits.fingerprint,
        "labels": list(prepared.splits.labels),
        "weights": prepared.weights,
        "teacher": prepared.teacher,
        **({"augment_checkpoints": asked} if asked else {}),
        "pretrain_fingerprint": None if prepared.unlabelled is None else prepared.unlabelled.fingerprint,
        "mixed_precision": prepared.mixed_precision,
        "processes": prepared.processes,
        "versions": environment.versions(),
        "command": command,
    }


def _as_it_was(prepared: Prepared, record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The record of a run that goes on: it computes as it did before, whatever would be chosen today."""
    kept = kept_choice(folder, "kernels")
    if kept is None and prepared.unlabelled is not None:
        # It was stopped while it was pretrained: nothing has been chosen yet.
        return record
    kept = kept or probe.Choice(prepared.kernels).to_dict()
    kept_format = kept["chosen"]["mixed_precision"]
    if "mixed_precision" in prepared.free_kernels and (
        kept_format != "bf16" or precision.has_native_bf16(prepared.device)
    ):
        record = {**record, "mixed_precision": kept_format}
    before = {"head": kept_choice(folder, "head"), "layer_maps": kept_choice(folder, "layer_maps")}
    return {**record, "kernels": {**kept, "source": "checkpoint"}, **before}


def rehearse(
    prepared: Prepared, folder: Path, choice: probe.Choice
) -> tuple[ClassifierTrainer, dict[str, float], dict[str, Any]]:
    """The training of a run as `run` does it, without its checkpoints: to see what it costs.

    Returns:
        The trainer, the seconds that the parts took, and what result.json says of the cache.
    """
    with precision.settings_restored():
        return _train(prepared, folder, {**_record(prepared, None), "kernels": choice.to_dict()}, saving=False)


def _train(
    prepared: Prepared, folder: Path, record: dict[str, Any], *, saving: bool = True
) -> tuple[ClassifierTrainer, dict[str, float], dict[str, Any]]:
    """Encode the rows, fit the head, then train. The first thing written is recipe.json."""
    recipe, inputs, device = prepared.recipe, prepared.inputs, prepared.device
    train, augmentation = recipe.train, prepared.augmentation
    state = PartialState()
    micro_batch, accumulation, rows_per_step = prepared.micro_batch
    checkpoints = folder / "checkpoints"
    arguments_in = partial(
        training_arguments,
        checkpoints,
        learning_rate=prepared.learning_rate,
        metric=recipe.evaluate.metric,
        device=device,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        **{
            name: getattr(train, name)
            for name in (
                "num_train_epochs",
                "max_steps",
                "per_device_eval_batch_size",
                "weight_decay",
                "max_grad_norm",
                "seed",
                "logging_steps",
                "extra",
            )
        },
    )
    arguments_in(mixed_precision=prepared.mixed_precision)  # what they refuse is refused now
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    # What the copies refuse is the first line.
    with notes_afterwards():
        for note in prepared.notes:
            logger.info(note)
        if augmentation is not None and recipe.data.augment_copies:
            with state.main_process_first():
                copied = with_copies(prepared.splits.train, inputs, augmentation, recipe.data.augment_copies)
            made, scored = len(copied), [prepared.splits.validation, prepared.splits.test]
            copied = without_scored(copied, len(prepared.splits.train), [rows for rows in scored if rows is not None])
            if len(copied) < made:
                logger.info("data.augment: %d copies left out, which equal a row that is scored", made - len(copied))
            asked = checkpoint_digests(recipe.data.augment)
            how = hashing.of_json(
                [prepared.splits.fingerprint, repr(augmentation.operations), asked, len(copied), train.seed]
            )
            splits = dataclasses.replace(prepared.splits, train=copied, fingerprint=how)
            prepared = dataclasses.replace(prepared, splits=splits)
            seconds["augment_s"] = time.perf_counter() - started
            started = time.perf_counter()
    splits = prepared.splits
    # One process decodes pictures, the others find them decoded.
    with state.main_process_first() if isinstance(inputs, ImageInputs) else nullcontext():
        train_rows, validation_rows = inputs.encode(splits.train), inputs.encode(splits.validation)
    seconds["encode_s"] = time.perf_counter() - started
    # A token budget that is too small is refused here, with nothing written yet.
    batches = prepared.batches(inputs.lengths(train_rows))
    truncated = _truncated_share(inputs, train_rows)
    if truncated:
        logger.warning(
            "%.1f%% of the training texts are cut off at --max-length %d", 100 * truncated, inputs.max_length
        )

    model = prepared.model.to(device)
    if prepared.searches_layers and record.get("layer_maps") is None:
        started = time.perf_counter()
        record["layer_maps"] = search_layers(prepared, model, train_rows)
        seconds["layer_search_s"] = time.perf_counter() - started

    started = time.perf_counter()
    answers, insides = ask_teacher(prepared, record.get("layer_maps") or (), test=saving)
    if answers is not None:
        seconds["teacher_s"] = time.perf_counter() - started

    resume_from = newest_whole(checkpoints)

    def fit_head(rows: TrainingRows) -> None:
        if recipe.fits_head and resume_from is None and state.is_main_process:
            # One process is enough: the others take its weights when training starts.
            started = time.perf_counter()
            record["head"] = warm_start_head(prepared, model, train_rows, rows)
            seconds["head_warm_start_s"] = time.perf_counter() - started

    steps = batches.planned(train.num_train_epochs, train.max_steps)
    if recipe.adapts:
        silent = recipe.adapter is None or begins_silent(recipe.adapter)
        if silent:
            fit_head(TrainingRows(inputs, train_rows, validation_rows))
        model = with_adapter(model, recipe, prepared.fresh, steps=steps if saving else None)
        if not silent:
            # It changes what the head reads.
            fit_head(TrainingRows(inputs, train_rows, validation_rows))

    started = time.perf_counter()
    if "kernels" in record:
        choice = probe.Choice.from_dict(record["kernels"], "checkpoint")
    else:
        choice = choose_kernels(prepared, model, train_rows, steps)
    seconds["probe_s"] = time.perf_counter() - started
    kernels = choice.kernels
    prepared = dataclasses.replace(prepared, mixed_precision=kernels.mixed_precision)
    record |= {"mixed_precision": kernels.mixed_precision, "kernels": choice.to_dict()}
    kernels.switch_on(model)

    with prepared.shortcuts.without_gradients.taken(model):
        rows = cache_frozen_layers(
            model,
            inputs,
            train_rows,
            validation_rows,
            fingerprint=splits.fingerprint,
            autocast=prepared.autocast,
            budget_gb=recipe.batching.cache_gb,
            why_not=prepared.why_no_cache,
        )
    if not recipe.adapts:
        fit_head(rows)

    if state.is_main_process:
        write_json(folder / "recipe.json", record)
        checkpoints.mkdir(exist_ok=True)
        keep_start(model, checkpoints)
    state.wait_for_everyone()
    bar = ProgressBar(recipe.evaluate.metric)
    match recipe.objective:
        case Distill():
            assert answers is not None
            trainer_of = partial(DistillationTrainer, teacher=answers.of_training, insides=insides)
        case Supervised():
            trainer_of = ClassifierTrainer
    trainer = trainer_of(
        model,
        arguments_in(mixed_precision=kernels.mixed_precision),
        train_rows=rows.train,
        validation_rows=rows.validation,
        inputs=rows.inputs,
        metrics=lambda labels, logits: classification_metrics(labels, softmax(logits)),
        rows_per_step=rows_per_step,
        by_length=recipe.batching.by_length,
        token_budget=recipe.batching.token_budget,
        unpadded=isinstance(rows.inputs, TextInputs) and prepared.goes_unpadded(),
        shrink=prepared.shrink,
        shrink_share=recipe.data.low_resolution_share if isinstance(recipe.data, ImageData) else 0.0,
        loss=prepared.loss,
        r_drop=recipe.objective.r_drop,
        mixout=mixout(prepared, model),
        sampling=recipe.batching.sampling,
        augmentation=augmentation if prepared.changes_every_epoch else None,
        mix=recipe.objective.mix,
        shortcuts=prepared.shortcuts,
        optimizer=recipe.optim.optimizer,
        course=prepared.course,
        rates=prepared.rates,
        sparse_embeddings=prepared.sparse_embeddings,
        sharpness=Sharpness(recipe.optim.sam_rho, recipe.optim.sam_adaptive) if recipe.optim.sam_rho else None,
        averages=_averages(recipe.averaging),
        soup=Soup(checkpoints) if recipe.averaging.soup else None,
        penalty=adapter_penalty(model),
        callbacks=[
            bar,
            LogLines(folder / "log.jsonl"),
            *([EarlyStoppingCallback(train.early_stopping_patience)] if train.early_stopping_patience else []),
            *regularizers(prepared, model),
            *(what_trains(prepared, model, epoch_steps=batches.steps, steps=steps) if saving else []),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    if not saving:
        trainer.args.save_strategy, trainer.args.load_best_model_at_end = SaveStrategy.NO, False
    if resume_from is not None:
        logger.info("resuming from %s", resume_from.name)
    logger.info(
        "training on %d rows: %d steps of %d, learning rate %g, %s, %s attention (%s)",
        len(train_rows),
        steps,
        round(len(train_rows) / batches.steps),
        trainer.args.learning_rate,
        "float32" if kernels.mixed_precision == "no" else kernels.mixed_precision,
        kernels.attention,
        {"probe": "measured", "cache": "measured before", "checkpoint": "as before"}.get(choice.source, choice.source),
    )
    started = time.perf_counter()
    try:
        train_until_stopped(trainer, resume_from)
    finally:
        bar.close()
        rows.close()
    seconds["cache_s"] = rows.build_s
    seconds["train_s"] = time.perf_counter() - started + rows.build_s
    seconds["train_loop_s"] = trainer.loop_seconds
    # What the teacher is asked meanwhile is its time and not the student's; of its inside, a rehearsal counts that as steps.
    asked_s = answers.live.seconds if answers is not None and answers.live is not None else 0.0
    asked_s += insides.clock.seconds if insides is not None and saving else 0.0
    if asked_s:
        seconds["teacher_s"] += asked_s
        seconds["train_s"] -= asked_s
        seconds["train_loop_s"] -= asked_s
        if trainer.utilisation is not None:
            trainer.utilisation = dataclasses.replace(trainer.utilisation, seconds=seconds["train_loop_s"])
    # Of the whole training: with the steps before a restart, and with its teacher.
    seconds["all_steps_s"] = trainer.all_loop_seconds
    return trainer, seconds, {"cache": rows.report, "truncated_share": truncated, "answers": answers}


def _averages(wanted: Averaging) -> Averages | None:
    kinds = [Ema(wanted.ema_decay)] if wanted.ema_decay is not None else []
    kinds += [Tail(wanted.tail_share, wanted.tail_every)] if wanted.tail_share else []
    return Averages(*kinds) if kinds else None


def _truncated_share(inputs: Inputs, rows: Dataset) -> float | None:
    return round(inputs.truncated_share(rows), 4) if isinstance(inputs, TextInputs) else None
