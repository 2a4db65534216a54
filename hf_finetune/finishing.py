"""From a trained model to a finished run: saved, scored, verified, documented, published."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from peft import PeftModel
from torch import nn

from hf_finetune import environment, parity
from hf_finetune.apply import write_predictions
from hf_finetune.codec import write_json, write_text
from hf_finetune.data.inputs import ImageInputs, Inputs, Rows, TextInputs, columns_of
from hf_finetune.evaluation import calibration
from hf_finetune.evaluation.inference import predict_logits
from hf_finetune.evaluation.intervals import bootstrap, paired_difference, verdict
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.features.baselines import linear_baseline, majority
from hf_finetune.hub.card import render_card
from hf_finetune.models import adapters, freeze
from hf_finetune.preparation import Prepared
from hf_finetune.publishing import publish
from hf_finetune.run_folder import replacing
from hf_finetune.training.trainer import ClassifierTrainer


def finish(
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
