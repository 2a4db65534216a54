"""From a trained model to a finished run: saved, scored, verified, documented, published."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, concatenate_datasets
from peft import PeftModel
from torch import nn

from hf_finetune.data import provenance
from hf_finetune.data.inputs import ImageInputs, Inputs, Rows, TextInputs, columns_of
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.distillation import report as teacher_report
from hf_finetune.distillation import teachers
from hf_finetune.errors import InputError, PushError
from hf_finetune.evaluation import calibration
from hf_finetune.evaluation.intervals import bootstrap, paired_difference, verdict
from hf_finetune.evaluation.logits import predict_logits
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.evaluation.report import confusion
from hf_finetune.features.baselines import linear_baseline, majority
from hf_finetune.hub.card import render_card
from hf_finetune.models import freezing
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.heads.head_file import save_head
from hf_finetune.models.heads.stock import fold
from hf_finetune.models.modules import encoder, without_adapter
from hf_finetune.models.peft import adapters
from hf_finetune.pipeline import parity
from hf_finetune.pipeline.context import Prepared
from hf_finetune.pipeline.publish import publish
from hf_finetune.pipeline.run_folder import replacing
from hf_finetune.training.regularization.elastic_net import ElasticNetSteps, sparsity
from hf_finetune.training.trainer import ClassifierTrainer
from hf_finetune.utils import environment
from hf_finetune.utils.artifacts import HEAD_FILE, artefacts_in
from hf_finetune.utils.codec import spelled, write_json, write_text
from hf_finetune.utils.tables import write_predictions

WITHOUT = "without"
"""Folder of the same run without its pretraining, in a run that compares."""


def finish(
    prepared: Prepared,
    trainer: ClassifierTrainer,
    folder: Path,
    record: dict[str, Any],
    seconds: dict[str, float],
    found: dict[str, Any],
) -> dict[str, Any]:
    """Save, evaluate, verify, document, publish: the main process alone.

    Args:
        folder: of the run.
        record: what recipe.json holds; its `command` is what the card prints.
        seconds: that the parts took until now, as `time` of result.json has them; those of the parts here are added.
        found: what training found besides, as `pipeline.run.run` gathers it: the share of texts cut off, the cache, the teacher.

    Returns:
        The content of result.json, and its `folder`.

    Raises:
        GateError: a saved artefact does not reproduce the model.
        PushError: the Hub refused the finished run, or kept failing.
    """
    prepared = as_used(prepared)
    recipe, splits, inputs, device = prepared.recipe, prepared.splits, prepared.inputs, prepared.device
    model = trainer.trained_model()
    artefacts = save_artefacts(model, prepared, folder)
    pretrained = [] if prepared.unlabelled is None else [prepared.unlabelled.rows]
    provenance.save_keys(folder, [splits.train, *pretrained], recipe.starts_from)

    started = time.perf_counter()
    evaluated = {name: rows for name, rows in (("validation", splits.validation), ("test", splits.test)) if rows}
    logits, rates = {}, {}
    for name, rows in evaluated.items():
        begun = time.perf_counter()
        logits[name] = logits_of(model, prepared, rows, progress=f"evaluate {name}")
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

    def by_class(values_C: np.ndarray) -> dict[str, Any]:
        return dict(zip(splits.labels, values_C.tolist(), strict=True))

    trained, total = freezing.trainable_parameters(model)
    loop, used = seconds["train_loop_s"] + seconds["probe_s"], trainer.utilisation
    result = {
        "schema": 1,
        "name": recipe.name,
        "task": recipe.task,
        "problem_type": "single_label_classification",
        "checkpoint": recipe.model.checkpoint,
        "base_model": prepared.base_model,
        # Null: the checkpoint's weights; else all were random, in a network with these fields of its config set otherwise.
        "from_config": recipe.model.from_config,
        # Null: from no run.
        "started_from": prepared.started_from,
        "method": recipe.trained,
        "seed": recipe.train.seed,
        "labels": list(splits.labels),
        "rows": {
            "train": int(prepared.rows_per_class.sum()),
            **({} if splits.unlabeled is None else {"unlabelled": splits.unlabeled["rows"]}),
            **{name: len(rows) for name, rows in evaluated.items()},
        },
        "metrics": metrics,
        "baselines": baselines,
        "calibration": _calibration(labels, logits, judged),
        # The pairs of classes with the most wrong rows, most first.
        "confused": [
            dataclasses.asdict(pair)
            for pair in confusion(labels[judged], probabilities[judged].argmax(-1), splits.labels)
        ],
        "parity": checked,
        **_standalone(model, folder),
        "data": {
            "fingerprint": splits.fingerprint,
            "columns": splits.columns,
            "duplicates": splits.duplicates,
            # Null: no rows without a label.
            "unlabelled": splits.unlabeled,
            "truncated_share": found["truncated_share"],
            "path_name": path_name(recipe.data.path, recipe.data.name),
            "rows_per_class": by_class(prepared.rows_per_class),
            # Null: every row once an epoch, and all rows alike.
            "drawn_share": by_class((prepared.drawn_per_class / prepared.rows_per_class.sum()).round(6))
            if recipe.batching.sampling != "none"
            else None,
            "class_weights": None if prepared.class_weights is None else by_class(np.round(prepared.class_weights, 6)),
            "license": recipe.data.license,
            "notes": list(splits.notes),
        },
        # Null: not asked for.
        "augmentation": _augmentation(prepared, len(trainer.train_dataset)),
        "elastic_net": _sparsity(trainer),
        "pretrain": _pretrain(found["pretrain"], found["stages"], folder, evaluated[judged], probabilities[judged]),
        "teacher": _teacher(
            found["answers"],
            {"train": splits.train, **evaluated},
            probabilities,
            recipe.evaluate.resamples,
            record.get("layer_maps"),
        ),
        "notes": list(prepared.notes[len(splits.notes) :]),
        "learning_rate": trainer.args.learning_rate,
        "best": _best(trainer, recipe.evaluate.metric),
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
        # Null: not fitted before training.
        "head": record.get("head"),
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
        try:
            publish(folder, hub.repo_id, private=hub.private, revision=hub.revision, create_pr=hub.create_pr)
        except InputError as error:
            # Of bad input nothing would have been written, and here the run is.
            again = f"hf-finetune push {folder} {hub.repo_id}"
            raise PushError(f"{error}; the run is finished, `{again}` sends it") from None
    return {**result, "folder": str(folder)}


def _augmentation(prepared: Prepared, training_rows: int) -> dict[str, Any] | None:
    """What changed or mixed the training rows, how many there were with the copies, and how many copies were left out, see
    `augmentation.offline.without_scored`."""
    data, mix = prepared.recipe.data, prepared.recipe.objective.mix
    if not data.augment and not mix:
        return None
    return {
        "operations": list(map(spelled, data.augment)),
        "mix": list(map(spelled, mix)),
        "copies": data.augment_copies,
        "training_rows": training_rows,
        "left_out": len(prepared.splits.train) * (1 + data.augment_copies) - training_rows,
    }


def _teacher(
    answers: teachers.Answers | None,
    splits: dict[str, Dataset],
    probabilities: dict[str, np.ndarray],
    resamples: int,
    layer_maps: list[dict[str, Any]] | None,
) -> dict[str, Any] | None:
    """Who taught, how the student stands beside it, and which layers were found to go together."""
    if answers is None:
        return None
    report = teacher_report.report(
        answers, splits, probabilities, resamples=resamples, shown=lambda name: path_name(name, None)
    )
    # Null: not searched.
    return {**report, "layer_maps": layer_maps}


def _pretrain(
    report: dict[str, Any] | None,
    stages: dict[str, float] | None,
    folder: Path,
    rows: Dataset,
    probabilities_NC: np.ndarray,
) -> dict[str, Any] | None:
    """What the stage did; where the recipe ran without it, too, with what that came to on the same judged rows.

    Args:
        stages: what the steps of either stage took. None: the recipe did not run without it.
    """
    if report is None or stages is None:
        return report
    without = json.loads((folder / WITHOUT / "result.json").read_text(encoding="utf-8"))
    answers = pq.read_table(folder / WITHOUT / "predictions.parquet").to_pandas()
    judged = "test" if "test" in without["metrics"] else "validation"
    answers = answers[answers["split"] == judged]
    assert answers["row"].tolist() == rows["row"][:], "both runs have the same data"
    difference = paired_difference(
        probabilities_NC.argmax(-1) == np.asarray(rows["label"][:]),
        (answers["predicted"] == answers["label"]).to_numpy(),
    )
    found = {
        "accuracy": without["metrics"][judged]["accuracy"],
        "difference": {**difference.to_dict(), "verdict": verdict(difference)},
        "steps": without["steps"],
        # Of the optimiser steps alone: without pretraining, and of both stages.
        "loop_s": without["time"]["all_steps_s"],
        "loop_s_with": round(sum(stages.values()), 2),
    }
    return {**report, "without": found}


def _sparsity(trainer: ClassifierTrainer) -> dict[str, Any] | None:
    """How many of the weights with a penalty are 0: of those that the run began with, whether or not their turn came."""
    found = [c for c in trainer.callback_handler.callbacks if isinstance(c, ElasticNetSteps)]
    return sparsity(found[0].parameters) if found else None


def _best(trainer: ClassifierTrainer, metric: str) -> dict[str, Any]:
    """Which weights the run ended with, and what validation said of all that it could have kept."""
    kept, state = trainer.kept, trainer.state
    if kept is None:
        return {"step": state.best_global_step, metric: state.best_metric}
    averaged = {"candidates": [c.to_dict(metric) for c in trainer.candidates]} if len(trainer.candidates) > 1 else {}
    return {"step": kept.step, **kept.to_dict(metric), **averaged}


def as_used(prepared: Prepared) -> Prepared:
    """As whoever uses the model will: from the pictures to the labels, none of them decoded before."""
    inputs = prepared.inputs
    if not isinstance(inputs, ImageInputs):
        return prepared
    return dataclasses.replace(prepared, inputs=dataclasses.replace(inputs, decode_once=False))


def logits_of(model: nn.Module, prepared: Prepared, rows: Dataset, *, progress: str | None = None) -> np.ndarray:
    """Logits (N, C) of canonical rows. `progress` is the label of a bar, see `predict_logits`."""
    inputs = prepared.inputs
    encoded = inputs.encode(rows)
    return predict_logits(
        model,
        Rows(encoded, columns_of(inputs, labels=False)),
        inputs.collate,
        batch_size=prepared.recipe.train.per_device_eval_batch_size,
        lengths=inputs.lengths(encoded),
        progress=progress,
    )


def path_name(data: str, name: str | None) -> str:
    """What the data are called where their path on this machine says nothing: their own name, or that of the file."""
    path = Path(data)
    return (name or path.absolute().name) if path.exists() else data


def save_artefacts(model: nn.Module, prepared: Prepared, folder: Path) -> list[parity.Artefact]:
    """Write model/ (merged when adapters were trained) and adapter/, each whole or not at all.

    A head that no stock class has is folded into one; where it cannot be, encoder/ and head.safetensors stand in the place
    of model/. With such a head there is no adapter/, whose head would fit no stock class. After surgery, pretraining,
    another run or a change of the stock pooling there is none either: it would need the checkpoint as these left it, which
    the Hub has nowhere.
    """
    artefacts, whole = [], model
    pooled = isinstance(without_adapter(model), CustomHeadClassifier)
    if isinstance(model, PeftModel) and prepared.base_changed is None and not pooled:
        with replacing(folder / "adapter") as path:
            adapters.save_adapter(model, path, start=folder / "checkpoints" / adapters.START)
            _save_processor(prepared.inputs, path)
            if not adapters.mergeable(model):
                # It tells the classes' names, which no other file would.
                _note_pairs(model.get_base_model(), prepared)
                model.get_base_model().config.save_pretrained(path)
        base = model.get_base_model().name_or_path
        revision = prepared.recipe.model.revision
        artefacts.append(parity.Artefact("adapter", folder / "adapter", base=base, revision=revision))
    if isinstance(model, PeftModel):
        if not adapters.mergeable(model):
            return artefacts
        whole = adapters.merge(model)
    _note_pairs(whole, prepared)
    if isinstance(whole, CustomHeadClassifier) and not whole.folds:
        with replacing(folder / "encoder") as path:
            encoder(whole).save_pretrained(path)
            _save_processor(prepared.inputs, path)
        save_head(whole, folder / HEAD_FILE, prepared.recipe.task)
        return [parity.Artefact("reload", folder / "encoder", head=folder / HEAD_FILE)]
    if isinstance(whole, CustomHeadClassifier):
        whole = fold(encoder(whole), whole.reading, whole.head)
    with replacing(folder / "model") as path:
        whole.save_pretrained(path)
        _save_processor(prepared.inputs, path)
    return [parity.Artefact("reload", folder / "model"), *artefacts]


def _note_pairs(model: nn.Module, prepared: Prepared) -> None:
    # `predict` and `evaluate` warn when they are given single texts; what a run before this one was trained on is over.
    vars(model.config).pop("trained_on_pairs", None)
    if "text_pair" in prepared.splits.columns:
        model.config.trained_on_pairs = True


def _standalone(model: nn.Module, folder: Path) -> dict[str, Any]:
    """What result.json says of it: whether plain transformers loads the whole model, else why not."""
    held, whole = artefacts_in(folder), without_adapter(model)
    found: dict[str, Any] = {"standalone": "model" in held, "artefacts": list(held)}
    if "model" not in held and isinstance(whole, CustomHeadClassifier):
        found["why_not_standalone"] = whole.why_not_standalone
    if isinstance(model, PeftModel) and not adapters.mergeable(model):
        found["why_not_standalone"] = adapters.WHY_ALONE
    return found


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
        baseline = fit(labeled_rows(splits.train), {judged: rows}, num_labels=len(splits.labels))
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
