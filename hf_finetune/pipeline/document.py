"""Document a finished run: result.json, and the model card that renders it."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_finetune.data.config import Role
from hf_finetune.data.memory import is_in_memory
from hf_finetune.data.rows import UnusableRow, count_kinds
from hf_finetune.data.truncation import Truncation
from hf_finetune.data.unlabeled import labeled_rows
from hf_finetune.distillation.report import summarize
from hf_finetune.evaluation.doubts import Doubt
from hf_finetune.evaluation.per_class import class_section, target_section
from hf_finetune.hub.card import render_card
from hf_finetune.hub.run_facts import RunFacts
from hf_finetune.models import freezing
from hf_finetune.pipeline.comparison import comparison_section
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.doubts import run_doubts
from hf_finetune.pipeline.draw_plots import draw_plots, write_plots
from hf_finetune.pipeline.evaluate import Evaluation
from hf_finetune.pipeline.parity import Check
from hf_finetune.pipeline.save import standalone
from hf_finetune.pipeline.train import TrainedRun
from hf_finetune.pipeline.training_loss import class_weights, drawn_per_class
from hf_finetune.tasks.base import Task
from hf_finetune.training.regularization.elastic_net import ElasticNetSteps, sparsity
from hf_finetune.utils import environment
from hf_finetune.utils.files import write_json, write_text
from hf_finetune.utils.manifest import Manifest
from hf_finetune.utils.plain import short_repr

Section = dict[str, Any]
"""A part of result.json."""


def document(
    trained: TrainedRun, evaluation: Evaluation, checks: Callable[[], Mapping[str, Check]], *, plots: bool = True
) -> Section:
    """Write the plots and the card, then result.json, whose presence marks a finished run.

    Args:
        checks: waits for the parity gate, beside which the plots are drawn.
        plots: draw them. `hf-finetune card` does it at any later time.

    Returns:
        The content of result.json.
    """
    run, record, trainer = trained.run, trained.setup.record, trained.trainer
    assert record.kernels is not None, "chosen before training"
    trainable, total = freezing.trainable_parameters(trained.network)
    result = {
        "schema": 1,
        **_identity(run, evaluation),
        **quality_section(
            trained.task, evaluation, run_doubts(trained, evaluation), resamples=run.recipe.evaluate.resamples
        ),
        # Null: none was fitted.
        "temperature_scaling": _temperature(trained, evaluation),
        **standalone(trained.network, trained.folder),
        "data": _data(run, trained.setup.encoded.truncation),
        # Null: the recipe does not use the technique.
        "out_of_fold": _out_of_fold(trained),
        "augmentation": _augmentation(trained),
        "elastic_net": _sparsity(trained),
        "pretrain": _pretraining(trained, evaluation),
        "teacher": _teacher(trained, evaluation),
        "notes": list(run.notes[len(run.data.splits.notes) :]),
        "learning_rate": trainer.args.learning_rate,
        "best": _best(trained),
        "steps": trainer.state.global_step,
        "parameters": {"trained": trainable, "total": total},
        "kernels": record.kernels.to_dict(),
        # Null: not fitted before training.
        "head": None if record.head is None else asdict(record.head) | {"gain_of_training": trained.gain},
        "cache": trained.setup.rows.report,
        "environment": {
            "versions": record.versions,
            "commit": environment.package_commit(),
            "mixed_precision": record.mixed_precision,
            **environment.hardware(run.context.device, run.context.processes),
        },
        "command": record.command,
        "artifacts": Manifest.of(trained.folder).hashes,
    }
    facts = RunFacts(run.recipe, result)
    return write_documents(trained.folder, facts, checks, partial(_cost, trained, evaluation), plots=plots)


def write_documents(
    folder: Path,
    facts: RunFacts,
    checks: Callable[[], Mapping[str, Check]],
    cost: Callable[[], Section],
    *,
    plots: bool = True,
) -> Section:
    """Write the plots, the card, which shows them, and last result.json, whose content is returned.

    Args:
        facts: what is known before the parity gate ends.
        checks: waits for the gate, beside which the plots are drawn.
        cost: returns what the run took.
    """
    drawn = draw_plots(folder, facts) if plots else {}
    write_plots(folder, drawn)
    parity = {name: check.to_dict() for name, check in checks().items()}
    result = {**facts.result, "parity": parity, **cost(), "plots": list(drawn)}
    write_text(folder / "README.md", render_card(replace(facts, result=result)))
    write_json(folder / "result.json", result)
    return result


def _identity(run: Run, evaluation: Evaluation) -> Section:
    recipe, splits = run.recipe, run.data.splits
    unlabeled = {} if splits.unlabeled_counts is None else {"unlabelled": splits.unlabeled_counts["rows"]}
    return {
        "name": recipe.name,
        "task": run.hub_task,
        "problem_type": run.data.task.problem_type,
        "label_task": run.data.task.name,
        "checkpoint": recipe.model.checkpoint,
        "base_model": run.origin.base_model,
        # Null: the checkpoint's weights. Otherwise random weights, in a network with these changes of its config.
        "from_config": recipe.model.from_config,
        # Null: the checkpoint comes from no run.
        "started_from": run.origin.started_from,
        "method": recipe.effective_method,
        "seed": recipe.train.seed,
        "labels": list(splits.labels),
        "rows": {
            "train": len(labeled_rows(splits.train)),
            **unlabeled,
            **{name: len(split.rows) for name, split in evaluation.splits.items()},
        },
    }


def quality_section(task: Task, evaluation: Evaluation, doubts: Sequence[Doubt], *, resamples: int) -> Section:
    """Return metrics, doubts, baselines and calibration of a run.

    Args:
        task: with what the validation rows have settled.
    """
    judged, validation = evaluation.judged_split, evaluation.splits["validation"]
    return {
        "metrics": {
            name: {metric: interval.to_dict() for metric, interval in split.metrics.items()}
            for name, split in evaluation.splits.items()
        },
        "per_class": {name: class_section(split.per_class) for name, split in evaluation.splits.items()},
        "per_target": {
            name: target_section(task.per_target(split.labels, split.scores_NC, resamples=resamples))
            for name, split in evaluation.splits.items()
        },
        "doubts": [doubt.to_dict() for doubt in doubts],
        "baselines": evaluation.baselines,
        "calibration": {
            "split": evaluation.judged,
            "temperature": task.temperature(validation.labels, validation.logits_NC),
            "bins": task.calibration(judged.labels, judged.scores_NC),
        },
        # The pairs of classes with the most wrong rows, most first.
        "confused": task.confused(judged.labels, judged.scores_NC),
        "residuals": task.residuals(judged.labels, judged.scores_NC),
        **task.marks(),
    }


def _data(run: Run, truncation: Truncation | None) -> Section:
    recipe, splits = run.recipe, run.data.splits
    rows_C, drawn_C, weights_C = run.data.rows_per_class, drawn_per_class(run), class_weights(run)

    def by_class(values_C: np.ndarray) -> dict[str, float]:
        return dict(zip(splits.labels, values_C.tolist(), strict=True))

    return {
        "fingerprint": splits.fingerprint,
        "columns": splits.named_columns,
        "duplicates": splits.duplicates,
        # Null: no rows without a label.
        "unlabelled": splits.unlabeled_counts,
        # Null: the recipe names the way to read long texts.
        "long_choice": run.long_choice,
        # Null: the recipe names what the head reads, or there was no choice.
        "pooling_choice": run.pooling_choice,
        "truncated_share": None if truncation is None else round(truncation.share, 4),
        # Null: such rows would have been refused.
        "dropped": dropped_section(splits.dropped),
        "path_name": path_name(recipe.data.path, recipe.data.name),
        "rows_per_class": by_class(rows_C),
        # Null: every row once an epoch, or all rows weigh the same.
        "drawn_share": None if recipe.batching.sampling == "none" else by_class((drawn_C / rows_C.sum()).round(6)),
        "class_weights": None if weights_C is None else by_class(np.round(weights_C, 6)),
        "license": recipe.data.license,
        "notes": list(splits.notes),
    }


def dropped_section(dropped: Mapping[Role, Sequence[UnusableRow]] | None) -> Section | None:
    """Count the rows that were left out as unusable, by split and kind of fault."""
    if dropped is None:
        return None
    return {role: {"rows": len(rows), "reasons": count_kinds(rows)} for role, rows in dropped.items()}


def path_name(path: str, name: str | None) -> str:
    """Return a public name of the data: for a local path the recipe's name of them, or that of the file."""
    if is_in_memory(path):
        return name or "rows in memory"
    local = Path(path)
    return (name or local.absolute().name) if os.path.exists(local) else path


def _augmentation(trained: TrainedRun) -> Section | None:
    data, mix = trained.run.recipe.data, trained.run.recipe.objective.mix
    if not data.augment and not mix:
        return None
    training_rows = len(trained.setup.encoded.train)
    return {
        "operations": list(map(short_repr, data.augment)),
        "mix": list(map(short_repr, mix)),
        "copies": data.augment_copies,
        "training_rows": training_rows,
        # Copies equal to a validation or test row.
        "left_out": len(trained.run.data.splits.train) * (1 + data.augment_copies) - training_rows,
    }


def _sparsity(trained: TrainedRun) -> Section | None:
    hooks = [hook for hook in trained.trainer.hooks if isinstance(hook, ElasticNetSteps)]
    return sparsity(hooks[0].parameters) if hooks else None


def _pretraining(trained: TrainedRun, evaluation: Evaluation) -> Section | None:
    if trained.pretraining is None:
        return None
    report = trained.pretraining.report
    if not trained.run.recipe.pretrain.compare:
        return report
    return {**report, "without": comparison_section(trained.folder, evaluation.judged_split)}


def _teacher(trained: TrainedRun, evaluation: Evaluation) -> Section | None:
    teacher, splits = trained.setup.teacher, evaluation.splits
    if teacher is None:
        return None
    report = summarize(
        trained.task,
        teacher.predictions,
        {"train": trained.run.data.splits.train, **{name: split.rows for name, split in splits.items()}},
        {name: split.scores_NC for name, split in splits.items()},
        resamples=trained.run.recipe.evaluate.resamples,
        public_name=lambda name: path_name(name, None),
    )
    # Null: not searched.
    return {**report, "layer_maps": trained.setup.record.layer_maps}


def _temperature(trained: TrainedRun, evaluation: Evaluation) -> Section | None:
    if trained.temperature is None:
        return None
    judged, is_test = evaluation.judged_split, evaluation.judged == "test"
    return trained.temperature.to_dict(trained.task, judged.labels, judged.logits_NC, is_test=is_test)


def _out_of_fold(trained: TrainedRun) -> Section | None:
    if trained.out_of_fold is None:
        return None
    return trained.out_of_fold.to_dict(trained.task, trained.run.recipe.evaluate.group)


def _best(trained: TrainedRun) -> Section:
    """Return the step of the final weights, and the validation scores of all candidates."""
    trainer, metric = trained.trainer, trained.run.metric
    best, candidates = trainer.selection.best, trainer.selection.candidates
    if trained.out_of_fold is not None:
        return {"step": trainer.state.global_step, "weights": "last"}
    if best is None:
        return {"step": trainer.state.best_global_step, metric: trainer.state.best_metric}
    averaged = {"candidates": [c.to_dict(metric) for c in candidates]} if len(candidates) > 1 else {}
    return {"step": best.step, **best.to_dict(metric), **averaged}


def _cost(trained: TrainedRun, evaluation: Evaluation) -> Section:
    trainer, clock, context = trained.trainer, trained.clock, trained.run.context
    loop_s, used = clock.seconds("train_loop_s") + clock.seconds("probe_s"), trainer.utilization
    tokens = 0 if trained.setup.rows.skips_all_layers else trainer.work.tokens
    return {
        "time": {"total_s": round(environment.seconds_since_start(), 2), **clock.to_dict()},
        "throughput": {
            "train_rows_per_s": round(trainer.work.rows * context.processes / loop_s, 2),
            # Null: no layer reads tokens. A head on cached features has one vector a row.
            "train_tokens_per_s": round(tokens * context.processes / loop_s, 1) if tokens else None,
            "predict_rows_per_s": round(evaluation.judged_split.rows_per_s, 2),
            "flop_utilisation": None if used is None else round(used.share, 4),
        },
        # Null: a resumed run had no steps left to measure.
        "flops": None if used is None else used.to_dict(),
        "memory": environment.memory(context.device),
    }
