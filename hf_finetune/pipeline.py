"""The one page on which the data flows: recipe -> data -> model -> training -> evaluation -> parity gate -> card -> Hub."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, concatenate_datasets
from peft import PeftModel
from torch import nn
from transformers import EarlyStoppingCallback, PrinterCallback
from transformers.trainer_utils import SaveStrategy

from hf_finetune import environment, parity
from hf_finetune.apply import write_predictions
from hf_finetune.codec import to_plain, write_json, write_text
from hf_finetune.data.inputs import ImageInputs, Inputs, Rows, TextInputs, columns_of, with_labels
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.evaluation import calibration
from hf_finetune.evaluation.inference import predict_logits
from hf_finetune.evaluation.intervals import bootstrap, paired_difference, verdict
from hf_finetune.evaluation.metrics import classification_metrics, softmax
from hf_finetune.features.baselines import linear_baseline, majority
from hf_finetune.features.frozen import TrainingRows, cache_frozen_layers
from hf_finetune.hub.card import render_card
from hf_finetune.hub.push import check_target
from hf_finetune.models import adapters, freeze
from hf_finetune.models.dropout import fast_dropout
from hf_finetune.models.heads import classification_layer, set_head
from hf_finetune.preparation import Prepared, prepare, with_adapter
from hf_finetune.publishing import publish
from hf_finetune.recipe import ImageData, Launch, Recipe
from hf_finetune.run_folder import kept_kernels, output_folder, plain_disk_errors, refuse_changes, replacing
from hf_finetune.training import head_store, precision, probe, warm_start
from hf_finetune.training.arguments import default_learning_rate, training_arguments
from hf_finetune.training.callbacks import LogLines, ProgressBar
from hf_finetune.training.checkpoints import CheckpointKeeper, catching_signals, newest_whole
from hf_finetune.training.peers import plain_peer_errors
from hf_finetune.training.trainer import ClassifierTrainer

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
    """
    folder = output_folder(recipe.name, launch.output, resume=launch.resume)
    if recipe.hub.repo_id is not None:
        check_target(recipe.hub.repo_id, recipe.hub.revision, recipe.hub.create_pr)
    prepared = prepare(recipe)
    if launch.num_processes not in (None, prepared.processes):
        raise InputError(f"--num-processes {launch.num_processes}: {prepared.processes} process(es) were started")
    record = _record(prepared, command)
    if launch.resume and (folder / "recipe.json").exists():
        record = _as_it_was(prepared, record, folder)
        refuse_changes(folder, record)
    elif launch.resume:
        logger.info("nothing to resume in %s: the run starts anew", folder)
    with plain_disk_errors(folder), plain_peer_errors(), precision.settings_restored():
        trainer, seconds, found = _train(prepared, folder, record)
    if not PartialState().is_main_process:
        return None
    try:
        with plain_disk_errors(folder):
            return _finish(prepared, trainer, folder, record, seconds, found)
    except KeyboardInterrupt:
        raise StoppedBySignal("stopped by a signal after training; --resume goes on from there") from None


def _record(prepared: Prepared, command: str | None) -> dict[str, Any]:
    """What recipe.json holds: enough to run it again."""
    return {
        "recipe": to_plain(prepared.recipe),
        "fingerprint": prepared.splits.fingerprint,
        "labels": list(prepared.splits.labels),
        "weights": prepared.weights,
        "mixed_precision": prepared.mixed_precision,
        "processes": prepared.processes,
        "versions": environment.versions(),
        "command": command,
    }


def _as_it_was(prepared: Prepared, record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The record of a run that goes on: it computes as it did before, whatever would be chosen today."""
    kept = kept_kernels(folder) or probe.Choice(prepared.kernels).to_dict()
    kept_format = kept["chosen"]["mixed_precision"]
    if "mixed_precision" in prepared.free_kernels and (
        kept_format != "bf16" or precision.has_native_bf16(prepared.device)
    ):
        record = {**record, "mixed_precision": kept_format}
    return {**record, "kernels": {**kept, "source": "checkpoint"}}


def choose_kernels(prepared: Prepared, model: nn.Module, train_rows: Dataset, steps: int) -> probe.Choice:
    """What the run computes with; the main process decides for all."""
    recipe, inputs = prepared.recipe, prepared.inputs
    decided: list[Any] = [None]
    if PartialState().is_main_process:
        # Rows of the mean length, as many as a forward pass takes.
        lengths, size = inputs.lengths(train_rows), min(prepared.micro_batch[0], len(train_rows))
        chosen = np.arange(size)
        if lengths is not None:
            order = np.argsort(lengths, kind="stable")
            middle = int(np.searchsorted(lengths[order], lengths.mean()))
            start = min(max(0, middle - size // 2), len(order) - size)
            chosen = order[start : start + size]
        rows = Rows(train_rows, columns_of(inputs, labels=True)).__getitems__(chosen.tolist())
        batch = {name: tensor.to(prepared.device) for name, tensor in with_labels(inputs.collate, rows).items()}
        decided[0] = probe.choose(
            model,
            batch,
            default=prepared.kernels,
            free=prepared.free_kernels,
            planned_steps=steps,
            method=recipe.trained,
            around=fast_dropout if recipe.model.fast_dropout else nullcontext,
            # Rows end to end go through other kernels than these.
            probe=recipe.precision.probe and not (isinstance(inputs, TextInputs) and prepared.goes_unpadded()),
        )
    return broadcast_object_list(decided)[0]


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
    recipe, inputs, splits, device = prepared.recipe, prepared.inputs, prepared.splits, prepared.device
    train = recipe.train
    state = PartialState()
    micro_batch, accumulation, rows_per_step = prepared.micro_batch
    checkpoints = folder / "checkpoints"
    arguments_in = partial(
        training_arguments,
        checkpoints,
        learning_rate=train.learning_rate or default_learning_rate(recipe.trained, recipe.task),
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
                "warmup_steps",
                "lr_scheduler_type",
                "max_grad_norm",
                "seed",
                "logging_steps",
                "extra",
            )
        },
    )
    arguments_in(mixed_precision=prepared.mixed_precision)  # what they refuse is refused now
    for note in prepared.notes:
        logger.info(note)

    seconds: dict[str, float] = {}
    started = time.perf_counter()
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
    resume_from = newest_whole(checkpoints)

    def fit_head(rows: TrainingRows) -> None:
        if train.head_warm_start and resume_from is None and state.is_main_process:
            # One process is enough: the others take its weights when training starts.
            started = time.perf_counter()
            _warm_start(prepared, model, train_rows, rows)
            seconds["head_warm_start_s"] = time.perf_counter() - started

    if recipe.adapts:
        fit_head(TrainingRows(inputs, train_rows, validation_rows))
        model = with_adapter(model, recipe, prepared.fresh)

    steps = batches.planned(train.num_train_epochs) if train.max_steps < 0 else train.max_steps
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

    rows = cache_frozen_layers(
        model,
        inputs,
        train_rows,
        validation_rows,
        fingerprint=splits.fingerprint,
        autocast=prepared.autocast,
        budget_gb=recipe.batching.cache_gb,
        # Pictures that change from step to step have no activations to keep.
        wanted=recipe.batching.cache_prefix and prepared.shrink is None and recipe.model.patch_drop == 0,
    )
    if not recipe.adapts:
        fit_head(rows)

    if state.is_main_process:
        write_json(folder / "recipe.json", record)
        checkpoints.mkdir(exist_ok=True)
    state.wait_for_everyone()
    bar = ProgressBar(recipe.evaluate.metric)
    trainer = ClassifierTrainer(
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
        label_smoothing=recipe.objective.label_smoothing,
        quick_dropout=recipe.model.fast_dropout,
        sparse_embeddings=prepared.sparse_embeddings,
        callbacks=[
            bar,
            LogLines(folder / "log.jsonl"),
            *([EarlyStoppingCallback(train.early_stopping_patience)] if train.early_stopping_patience else []),
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
    with catching_signals() as signals:
        trainer.add_callback(CheckpointKeeper(signals))
        try:
            trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
        finally:
            bar.close()
            rows.close()
    if signals:
        raise StoppedBySignal("stopped by a signal after the last step; --resume goes on from there")
    seconds["cache_s"] = rows.build_s
    seconds["train_s"] = time.perf_counter() - started + rows.build_s
    seconds["train_loop_s"] = trainer.loop_seconds
    return trainer, seconds, {"cache": rows.report, "truncated_share": truncated}


def _truncated_share(inputs: Inputs, rows: Dataset) -> float | None:
    return round(inputs.truncated_share(rows), 4) if isinstance(inputs, TextInputs) else None


def _warm_start(prepared: Prepared, model: nn.Module, train_rows: Dataset, rows: TrainingRows) -> None:
    """Fit the classification layer on the untrained network's features, see `training.warm_start`.

    Args:
        rows: the same training rows, as activations of the frozen layers where these are cached.
    """
    recipe, inputs = prepared.recipe, prepared.inputs
    rng = np.random.default_rng(recipe.train.seed)
    chosen = np.sort(rng.permutation(len(train_rows))[: warm_start.MOST_ROWS])
    lengths = inputs.lengths(train_rows)
    if lengths is not None:
        chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
    sample = train_rows.select(chosen)
    labels, batch_size = np.asarray(sample["label"][:]), recipe.train.per_device_eval_batch_size
    # Pictures are named by the data's fingerprint and their row.
    shown = [c for c in ("row", *columns_of(inputs, labels=True)) if c in sample.column_names and c != "image"]
    key = head_store.key_of(
        model,
        sample.select_columns(shown),
        {
            "data": prepared.splits.fingerprint,
            "inputs": inputs.max_length if isinstance(inputs, TextInputs) else inputs.processor.to_json_string(),
            "autocast": str(prepared.autocast),
            "batch_size": batch_size,
            "cached_layers": rows.layer if rows.why is None else 0,
            "kernels": [
                model.config._attn_implementation,
                torch.get_float32_matmul_precision(),
                torch.get_num_threads(),
            ],
        },
    )
    head = head_store.read(key)
    if head is None:
        features = warm_start.head_features(
            model,
            classification_layer(model),
            Rows(rows.train.select(chosen), columns_of(rows.inputs, labels=False)),
            rows.inputs.collate,
            batch_size=batch_size,
            autocast=prepared.autocast,
            progress="fit the head",
        )
        head = warm_start.fit_head(features, labels, len(prepared.splits.labels))
        head_store.write(key, *head)
    else:
        logger.info("the head starts as an earlier run on this machine fitted it to the same rows")
    set_head(model, *head)


def _finish(
    prepared: Prepared,
    trainer: ClassifierTrainer,
    folder: Path,
    record: dict[str, Any],
    seconds: dict[str, float],
    found: dict[str, Any],
) -> dict[str, Any]:
    """Save, evaluate, verify, document, publish: the main process alone."""
    recipe, splits, inputs, device = prepared.recipe, prepared.splits, prepared.inputs, prepared.device
    if isinstance(inputs, ImageInputs):
        # From the pictures to the labels, as whoever uses the model will: timed as such, and checked against them.
        inputs = dataclasses.replace(inputs, decode_once=False)
    model = trainer.trained_model()
    artefacts = save_artefacts(model, prepared, folder)

    started = time.perf_counter()
    evaluated = {name: rows for name, rows in (("validation", splits.validation), ("test", splits.test)) if rows}
    logits, rates = {}, {}
    for name, rows in evaluated.items():
        begun = time.perf_counter()
        encoded = inputs.encode(rows)
        logits[name] = predict_logits(
            model,
            Rows(encoded, columns_of(inputs, labels=False)),
            inputs.collate,
            batch_size=recipe.train.per_device_eval_batch_size,
            lengths=inputs.lengths(encoded),
            progress=f"evaluate {name}",
        )
        rates[name] = len(rows) / (time.perf_counter() - begun)
    probabilities = {name: softmax(found) for name, found in logits.items()}
    labels = {name: np.asarray(rows["label"][:]) for name, rows in evaluated.items()}
    metrics = {
        name: {
            metric: interval.to_dict()
            for metric, interval in bootstrap(
                labels[name], probabilities[name], resamples=recipe.evaluate.resamples
            ).items()
        }
        for name in evaluated
    }
    judged = "test" if "test" in evaluated else "validation"
    write_predictions(folder / "predictions.parquet", evaluated, probabilities, splits.labels)
    seconds["evaluate_s"] = time.perf_counter() - started

    started = time.perf_counter()
    baselines = {}
    if recipe.evaluate.baselines:
        baselines = _baselines(prepared, judged, evaluated[judged], probabilities[judged])
    seconds["baselines_s"] = time.perf_counter() - started

    started = time.perf_counter()
    shown = concatenate_datasets([evaluated[judged], splits.train])
    shown = shown.select(range(min(recipe.evaluate.parity_rows, len(shown))))
    checked = parity.check_artefacts(
        artefacts,
        rows=shown,
        expected_NC=parity.reference_logits(model, inputs, inputs.encode(shown)),
        labels=splits.labels,
        task=recipe.task,
        trust_remote_code=recipe.model.trust_remote_code,
    )
    seconds["parity_s"] = time.perf_counter() - started

    trained, total = freeze.trainable_parameters(model)
    loop, used = trainer.loop_seconds + seconds["probe_s"], trainer.utilisation
    result = {
        "schema": 1,
        "name": recipe.name,
        "task": recipe.task,
        "problem_type": "single_label_classification",
        "checkpoint": recipe.model.checkpoint,
        "base_model": prepared.base_model,
        "method": recipe.trained,
        "seed": recipe.train.seed,
        "labels": list(splits.labels),
        "rows": {"train": len(splits.train), **{name: len(rows) for name, rows in evaluated.items()}},
        "metrics": metrics,
        "baselines": baselines,
        "calibration": _calibration(labels, logits, judged),
        "parity": checked,
        "standalone": True,
        "data": {
            "fingerprint": splits.fingerprint,
            "columns": splits.columns,
            "duplicates": splits.duplicates,
            "truncated_share": found["truncated_share"],
            "path_name": recipe.data.path
            if not Path(recipe.data.path).exists()
            else Path(recipe.data.path).absolute().name,
            "rows_per_class": dict(
                zip(
                    splits.labels,
                    np.bincount(splits.train["label"], minlength=len(splits.labels)).tolist(),
                    strict=True,
                )
            ),
            "license": recipe.data.license,
            "notes": list(splits.notes),
        },
        "notes": list(prepared.notes[len(splits.notes) :]),
        "learning_rate": trainer.args.learning_rate,
        "best": {"step": trainer.state.best_global_step, recipe.evaluate.metric: trainer.state.best_metric},
        "steps": trainer.state.global_step,
        "parameters": {"trained": trained, "total": total},
        "time": {
            "total_s": round(environment.seconds_since_start(), 2),
            **{k: round(v, 2) for k, v in seconds.items()},
        },
        "throughput": {
            "train_rows_per_s": round(trainer.rows_trained * prepared.processes / loop, 2),
            "train_tokens_per_s": round(trainer.tokens_trained * prepared.processes / loop, 1),
            "predict_rows_per_s": round(rates[judged], 2),
            "flop_utilisation": None if used is None else round(used.share, 4),
        },
        # Null where the run was over before it was resumed: then nothing was trained that could be measured.
        "flops": None if used is None else used.to_dict(),
        "memory": environment.memory(device),
        "kernels": record["kernels"],
        "cache": found["cache"],
        "environment": {
            "versions": record["versions"],
            "commit": environment.package_commit(),
            "mixed_precision": record["mixed_precision"],
            **environment.hardware(device, prepared.processes),
        },
        "command": record["command"],
    }
    write_text(folder / "README.md", render_card(recipe, result))
    # Last: a run that has it is finished.
    write_json(folder / "result.json", result)
    parity.refuse_failed(checked)
    if not recipe.train.keep_checkpoints:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    hub = recipe.hub
    if hub.repo_id is not None:
        publish(folder, hub.repo_id, private=hub.private, revision=hub.revision, create_pr=hub.create_pr)
    return {**result, "folder": str(folder)}


def save_artefacts(model: nn.Module, prepared: Prepared, folder: Path) -> list[parity.Artefact]:
    """Write model/ (merged when adapters were trained) and adapter/, each whole or not at all."""
    artefacts = [parity.Artefact("reload", folder / "model")]
    whole = model
    if isinstance(model, PeftModel):
        with replacing(folder / "adapter") as path:
            adapters.save_adapter(model, path)
            _save_processor(prepared.inputs, path)
        base = model.get_base_model().name_or_path
        revision = prepared.recipe.model.revision
        artefacts.append(parity.Artefact("adapter", folder / "adapter", base=base, revision=revision))
        whole = adapters.merge(model)
    if "text_pair" in prepared.splits.columns:
        # `predict` and `evaluate` warn when they are given single texts.
        whole.config.trained_on_pairs = True
    with replacing(folder / "model") as path:
        whole.save_pretrained(path)
        _save_processor(prepared.inputs, path)
    return artefacts


def _save_processor(inputs: Inputs, path: Path) -> None:
    (inputs.tokenizer if isinstance(inputs, TextInputs) else inputs.processor).save_pretrained(path)


def _calibration(labels: dict[str, np.ndarray], logits: dict[str, np.ndarray], judged: str) -> dict[str, Any]:
    """Reliability of the judged split, and the temperature that validation would choose."""
    return {
        "split": judged,
        "temperature": calibration.temperature(labels["validation"], logits["validation"]),
        "bins": [b.to_dict() for b in calibration.reliability(labels[judged], softmax(logits[judged]))],
    }


def _baselines(prepared: Prepared, judged: str, rows: Dataset, probabilities: np.ndarray) -> dict[str, Any]:
    """What the majority and a linear model on shallow features reach on the judged rows, with intervals.

    Each with `difference`: the accuracy of the model (whose `probabilities` are given) minus its own, row by row.
    """
    splits, resamples = prepared.splits, prepared.recipe.evaluate.resamples
    labels = np.asarray(rows["label"][:])
    found = {}
    for key, fit in (("majority", majority), ("linear", linear_baseline)):
        baseline = fit(splits.train, {judged: rows}, num_labels=len(splits.labels))
        intervals = bootstrap(labels, baseline.probabilities[judged], resamples=resamples)
        chosen = ("accuracy", "macro_f1", "log_loss")
        difference = paired_difference(
            probabilities.argmax(-1) == labels, baseline.probabilities[judged].argmax(-1) == labels
        )
        found[key] = {
            "name": baseline.name,
            **{m: i.to_dict() for m, i in intervals.items() if m in chosen},
            "difference": {**difference.to_dict(), "verdict": verdict(difference)},
        }
    return found
