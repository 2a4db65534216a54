"""What a run would do and cost: a rehearsal of a few of its steps, and the parts added up."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from hf_finetune.data.batching import StepBatches
from hf_finetune.distillation.features import layer_search
from hf_finetune.models import freezing
from hf_finetune.pipeline.batching import micro_batch, step_batches
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.hooks import gradual_unfreezing
from hf_finetune.pipeline.rehearsal import (
    Rehearsal,
    evaluated_rows,
    rehearse_steps,
    step_sizes,
    time_copies,
    time_pretraining,
)
from hf_finetune.pipeline.update_rule import learning_rate, schedule
from hf_finetune.training.optim.schedules import factors
from hf_finetune.training.warm_start import MOST_ROWS
from hf_finetune.utils.environment import hardware, memory, seconds_since_start
from hf_finetune.utils.files import write_text
from hf_finetune.utils.plots import line_chart, sparkline

# The parity gate's process reads a little less than this one did until now, then loads the model and scores a few rows.
PARITY_SECONDS = 1.0
# Weights and optimizer states written, read again for their digest, and synchronized.
DISK_BYTES_PER_S = 5e8


@dataclass(frozen=True)
class _Planned:
    """The steps of a run, and what a rehearsal says of them."""

    run: PreparedRun
    encoded: Dataset
    """Training rows; images are decoded as they are needed: the rehearsal tells how long that takes."""
    epoch: StepBatches
    """The steps of an epoch."""
    steps: int
    rehearsal: Rehearsal
    loop_s: float
    """Of all steps."""

    @property
    def epochs(self) -> float:
        """How often every row is trained on."""
        return self.steps / self.epoch.steps


def plan(run: PreparedRun, *, plot: Path | None = None) -> dict[str, Any]:
    """Train a few steps of a prepared run in a temporary folder, and add up. Nothing is kept.

    Args:
        run: see `run.prepare`.
        plot: file for a chart (SVG) of the learning rates, a line for each group that has its own.

    Returns:
        Rows, lengths, steps, learning rate, parameters, and estimates of seconds and of peak memory in megabytes.

    Raises:
        InputError: whatever would stop the run.
    """
    seconds = {"augment_s": time_copies(run)}
    run = _with_copies(run)
    started = time.perf_counter()
    train = run.data.splits.train
    encoded = run.data.inputs.for_inference().encode(train)
    seconds["encode_s"] = time.perf_counter() - started
    seconds["start_s"] = seconds_since_start() - seconds["encode_s"]
    planned = _rehearse(run, encoded)
    curve = np.array(factors(schedule(run.context), planned.steps)[: planned.steps])
    if plot is not None:
        lines = {
            part: (range(planned.steps), (rate * curve).tolist()) for part, rate in planned.rehearsal.peaks.items()
        }
        title = f"{run.recipe.name}: {schedule(run.context).name}"
        write_text(plot, line_chart(lines, title=title, x_label="optimizer step"))
    trainable, total = freezing.trainable_parameters(planned.rehearsal.network)
    saved_s = 4 * (total + 2 * trainable) / DISK_BYTES_PER_S
    seconds["pretrain_s"] = time_pretraining(run)
    parts = _parts(planned, seconds, saved_s=saved_s, begun_s=run.context.startup_s)
    return {
        **_description(planned, curve),
        "parameters": {"trained": trainable, "total": total},
        **_estimates(planned, parts),
        "environment": hardware(run.context.device, run.context.processes),
    }


def _with_copies(run: PreparedRun) -> PreparedRun:
    """The run with its stored copies in place; they are as long as what they are copies of, or nearly."""
    data: Any = run.recipe.data
    splits, copies = run.data.splits, run.recipe.data.augment_copies
    if not copies:
        return run
    recipe = replace(run.recipe, data=replace(data, augment=(), augment_copies=0))
    train = concatenate_datasets([splits.train] * (1 + copies))
    return run.varied(recipe=recipe, splits=replace(splits, train=train))


def _rehearse(run: PreparedRun, encoded: Dataset) -> _Planned:
    lengths, train = run.data.inputs.lengths(encoded), run.recipe.train
    epoch = step_batches(run, lengths)
    steps = epoch.total_steps(train.num_train_epochs, train.max_steps)
    rehearsal = rehearse_steps(run, encoded, epoch, steps)
    sizes = step_sizes(run, epoch.step_rows(), lengths)
    loop_s = rehearsal.loop(sizes) * (steps / epoch.steps) / run.context.processes
    unfreezing = gradual_unfreezing(run, rehearsal.network, epoch_steps=epoch.steps)
    if unfreezing is not None:
        # In the rehearsal all layers trained in every step.
        loop_s *= unfreezing.work(steps)
        unfreezing.switch(steps - 1)
    return _Planned(run, encoded, epoch, steps, rehearsal, loop_s)


def _parts(planned: _Planned, seconds: dict[str, float], *, saved_s: float, begun_s: float) -> dict[str, float]:
    """Seconds of all parts of the run but its steps.

    Args:
        seconds: of the parts before its first step.
        saved_s: of a checkpoint.
        begun_s: until the plan began.
    """
    run, recipe, rehearsal = planned.run, planned.run.recipe, planned.rehearsal
    rows, epochs, validation = len(planned.encoded), planned.epochs, len(planned.run.data.splits.validation)
    scored, share = len(evaluated_rows(run)), len(planned.encoded) / rehearsal.rows
    # A teacher of views that change in every epoch predicts all of them.
    predicted = scored + rows * (epochs if run.context.augments_online else 1)
    parts = {
        "start_s": seconds["start_s"],
        "pretrain_s": seconds["pretrain_s"],
        "augment_s": seconds["augment_s"],
        "encode_s": (seconds["encode_s"] or rehearsal.encode_s * share) * (1 + scored / rows),
        "layer_search_s": rehearsal.layer_search_s * min(rows, layer_search.MOST_ROWS),
        "teacher_s": rehearsal.teacher_s * predicted,
        "head_s": rehearsal.head(min(rows, MOST_ROWS)) * recipe.fits_head,
        "cache_s": rehearsal.cache_s * share,
        "validation_s": rehearsal.score_s * validation * epochs / run.context.processes + saved_s * epochs,
        "evaluate_s": rehearsal.evaluate_s * scored + rehearsal.interval_s * scored * recipe.evaluate.resamples,
        "baselines_s": rehearsal.baseline_s * (rows + scored) * recipe.evaluate.baselines,
        "parity_s": begun_s + PARITY_SECONDS,
    }
    if recipe.pretrain.compare and seconds["pretrain_s"]:
        again = ("head_s", "validation_s", "evaluate_s", "baselines_s", "parity_s")
        parts["without_s"] = seconds["pretrain_s"] + planned.loop_s + sum(parts[name] for name in again)
    return parts


def _description(planned: _Planned, curve: np.ndarray) -> dict[str, Any]:
    """What the run would do.

    Args:
        curve: the learning rate at each step, as a share of its peak.
    """
    run, splits, encoded = planned.run, planned.run.data.splits, planned.encoded
    by_tokens = run.recipe.batching.token_budget is not None
    return {
        "name": run.recipe.name,
        "rows": {
            "train": len(encoded),
            "validation": len(splits.validation),
            "test": 0 if splits.test is None else len(splits.test),
        },
        "labels": len(splits.labels),
        "columns": splits.columns,
        "notes": list(run.notes),
        "tokens": _tokens(run, encoded),
        "steps": planned.steps,
        "rows_per_step": round(len(encoded) / planned.epoch.steps) if by_tokens else micro_batch(run).rows_per_step,
        "learning_rate": learning_rate(run),
        "schedule": {
            "name": schedule(run.context).name,
            "learning_rates": planned.rehearsal.peaks,
            "curve": sparkline(curve.tolist()),
        },
        "mixed_precision": planned.rehearsal.mixed_precision,
    }


def _tokens(run: PreparedRun, encoded: Dataset) -> dict[str, Any] | None:
    """How long the training texts are; None of images."""
    inputs = run.data.inputs
    lengths = inputs.lengths(encoded)
    if lengths is None:
        return None
    return {
        "mean": round(float(lengths.mean()), 1),
        "longest": int(lengths.max()),
        "truncated_share": inputs.truncated_share(encoded),
    }


def _estimates(planned: _Planned, parts: dict[str, float]) -> dict[str, Any]:
    """What the run would take, in all and by part."""
    run, loop_s = planned.run, planned.loop_s
    teacher = {"teacher_s": _three_digits(parts["teacher_s"]), "student_s": _three_digits(loop_s)}
    return {
        "estimate": {
            "train_loop_s": _three_digits(loop_s),
            "total_s": _three_digits(loop_s + sum(parts.values())),
            **({} if run.teacher_weights is None else teacher),
            **memory(run.context.device),
        },
        "parts": {name: _three_digits(seconds) for name, seconds in parts.items()},
    }


def _three_digits(seconds: float) -> float:
    return float(f"{seconds:.3g}")


def describe(plan: dict[str, Any]) -> str:
    """A plan as a few lines of text."""
    rows, estimate, schedule = plan["rows"], plan["estimate"], plan["schedule"]
    by_part = schedule["learning_rates"] if len(schedule["learning_rates"]) > 1 else {}
    lines = [
        f"{plan['name']}: {rows['train']} train, {rows['validation']} validation, {rows['test']} test rows, "
        f"{plan['labels']} classes",
        *_describe_tokens(plan["tokens"]),
        f"steps         {plan['steps']} of {plan['rows_per_step']} rows, learning rate {plan['learning_rate']:g}, "
        f"{plan['mixed_precision']}",
        f"schedule      {schedule['name']} {schedule['curve']}",
        *(f"              {part} {rate:.3g}" for part, rate in by_part.items()),
        f"parameters    {plan['parameters']['trained']:,} of {plan['parameters']['total']:,} train",
        *([f"pretraining   about {_duration(before)}"] if (before := plan["parts"].get("pretrain_s", 0.0)) else []),
        f"training      about {_duration(estimate['train_loop_s'])}",
        *(
            f"{name:<13} about {_duration(estimate[f'{name}_s'])}"
            for name in ("teacher", "student")
            if f"{name}_s" in estimate
        ),
        f"everything    about {_duration(estimate['total_s'])}",
        f"memory        about {estimate['peak_rss_mb']:,.0f} MB",
    ]
    return "\n".join([*lines, *(f"note          {note}" for note in plan["notes"])])


def _describe_tokens(tokens: dict[str, Any] | None) -> list[str]:
    if tokens is None:
        return []
    share = 100 * (tokens["truncated_share"] or 0)
    lengths = f"{tokens['mean']} a row on average, {tokens['longest']} at most"
    return [f"tokens        {lengths}, {share:.1f}% of the rows cut off"]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
