"""Plan a run: what it would do, and an estimate of its time and memory from a few steps."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from hf_finetune.data.batching import StepBatches
from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.long.config import TRUNCATE, Chunk, HeadTail, Sliding
from hf_finetune.data.truncation import ways
from hf_finetune.distillation.feature_matching import layer_search
from hf_finetune.models import freezing
from hf_finetune.models.processors import position_limit
from hf_finetune.pipeline.base_plan import BasePlan, row_counts
from hf_finetune.pipeline.batch_plan import step_batches
from hf_finetune.pipeline.build_hooks import gradual_unfreezing
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.measure_costs import (
    RunCosts,
    evaluated_rows,
    measure_costs,
    step_sizes,
    time_copies,
    time_pretraining,
)
from hf_finetune.pipeline.optimization import learning_rate, schedule
from hf_finetune.pipeline.parity import gate_seconds
from hf_finetune.training.optim.schedules import factors
from hf_finetune.training.warm_start import MOST_ROWS
from hf_finetune.utils.core_sharing import shared_cores
from hf_finetune.utils.environment import hardware, memory, seconds_since_start
from hf_finetune.utils.files import write_bytes
from hf_finetune.utils.plots import line_chart, render, sparkline

# Rate at which weights and optimizer states are written, read again for their digest, and synchronized.
DISK_BYTES_PER_S = 5e8
TOKENS = "{mean} a row on average, {longest} at most, {truncated_share:.1%} of the rows truncated"
WAY = "{flags}: {cut_off:.1%} of the rows not read to the end, {tokens:.0f} tokens a row, training about {about}"
LONGER = (
    "; --max-length {proposed_length} would hold {proposed_holds:.1%} of them, at {proposed_cost:.1f} times the tokens"
)
EVERY_FOLD = ("encode_s", "head_s", "validation_s")
"""Stages of every fold beside the training steps."""


@dataclass(frozen=True)
class PlannedSchedule:
    """The learning-rate schedule of a run."""

    name: str
    learning_rates: dict[str, float]
    """Peak learning rates by group of parameters."""
    curve: str
    """The schedule as a line of characters."""


@dataclass(frozen=True)
class Plan(BasePlan):
    """What a run would do. Seconds and megabytes are estimates."""

    tokens: dict[str, float] | None
    """Mean and greatest length of the training texts, the share that is truncated, and the length that would hold
    nearly all, with its cost. None for images."""
    long: list[dict[str, Any]]
    """Ways to read texts beyond the maximum length, the present one first, see `data.truncation.Way`, with the seconds
    of training. Empty if no text is longer."""
    steps: int
    rows_per_step: int
    """Mean, of steps that differ by one row at most, or have a token budget."""
    learning_rate: float
    schedule: PlannedSchedule
    mixed_precision: str
    parameters: dict[str, int]
    estimate: dict[str, float]
    """Seconds of training and of everything, and peak memory."""
    parts: dict[str, float]
    """Seconds of everything but the training steps."""

    def __str__(self) -> str:
        groups = self.schedule.learning_rates if len(self.schedule.learning_rates) > 1 else {}
        seconds = {
            "pretraining": self.parts["pretrain_s"],
            "training": self.estimate["train_loop_s"],
            "teacher": self.estimate.get("teacher_s"),
            "student": self.estimate.get("student_s"),
            "everything": self.estimate["total_s"],
        }
        shown = {name: s for name, s in seconds.items() if s is not None and (s or name != "pretraining")}
        tokens = "" if self.tokens is None else TOKENS.format(**self.tokens)
        if self.tokens is not None and self.tokens["proposed_cost"] > 1 and not self.long:
            tokens += LONGER.format(**self.tokens)
        rate = f"learning rate {self.learning_rate:g}, {self.mixed_precision}"
        lines = [
            *([("tokens", tokens)] if tokens else []),
            *(
                ("" if i else "long texts", WAY.format(**way, about=_duration(way["train_loop_s"])))
                for i, way in enumerate(self.long)
            ),
            ("steps", f"{self.steps} of {self.rows_per_step} rows, {rate}"),
            ("schedule", f"{self.schedule.name} {self.schedule.curve}"),
            *(("", f"{group} {peak:.3g}") for group, peak in groups.items()),
            ("parameters", f"{self.parameters['trained']:,} of {self.parameters['total']:,} train"),
            *((name, f"about {_duration(s)}") for name, s in shown.items()),
            ("memory", f"about {self.estimate['peak_rss_mb']:,.0f} MB"),
        ]
        return self._lines(lines)


@shared_cores()
def plan(run: Run, *, plot: Path | None = None) -> Plan:
    """Train a few steps of a prepared run in a temporary folder, and estimate the rest. Nothing is saved.

    Args:
        run: see `run.prepare`.
        plot: file for a chart (SVG) of the learning rates, with a line for each group of parameters.

    Raises:
        InputError: whatever would stop the run.
    """
    augment_s = time_copies(run)
    run = _with_copies(run)
    started = time.perf_counter()
    encoded = run.data.inputs.for_inference().encode(run.data.splits.train)
    encode_s = time.perf_counter() - started
    start_s = seconds_since_start() - encode_s
    lengths, splits = run.data.inputs.lengths(encoded), run.data.splits
    epoch = step_batches(run, lengths)
    steps = epoch.total_steps(run.recipe.train.epochs, run.recipe.train.max_steps)
    costs = measure_costs(run, encoded, epoch, steps)
    loop_s = _loop_seconds(run, costs, epoch, steps, lengths)
    trainable, total = freezing.trainable_parameters(costs.network)
    checkpoint_s = 4 * (total + 2 * trainable) / DISK_BYTES_PER_S
    if run.recipe.kind == "image":
        encode_s = costs.encode_s * len(encoded)
    before = {"start_s": start_s, "pretrain_s": time_pretraining(run), "augment_s": augment_s, "encode_s": encode_s}
    parts = _parts(run, costs, before, len(encoded), steps / epoch.steps, loop_s=loop_s, checkpoint_s=checkpoint_s)
    return Plan(
        name=run.recipe.name,
        rows=row_counts(splits),
        labels=len(splits.labels),
        outputs=run.data.task.outputs,
        columns=splits.named_columns,
        notes=list(run.notes),
        tokens=_text_lengths(run, encoded),
        long=_ways_to_read(run, encoded, loop_s),
        steps=steps,
        rows_per_step=round(len(encoded) / epoch.steps),
        learning_rate=learning_rate(run),
        schedule=_planned_schedule(run, costs, steps, plot),
        mixed_precision=costs.mixed_precision,
        parameters={"trained": trainable, "total": total},
        estimate=_estimate(run, loop_s, parts),
        parts={name: _three_digits(seconds) for name, seconds in parts.items()},
        environment=hardware(run.context.device, run.context.processes),
    )


def _loop_seconds(run: Run, costs: RunCosts, epoch: StepBatches, steps: int, lengths: np.ndarray | None) -> float:
    """Return the seconds of all training steps, and leave the network with the weights that train in the last one."""
    loop_s = costs.steps.total(step_sizes(run, epoch.step_rows(), lengths)) * (steps / epoch.steps)
    unfreezing = gradual_unfreezing(run, costs.network, epoch_steps=epoch.steps)
    if unfreezing is not None:
        # In the timed steps all layers trained.
        loop_s *= unfreezing.work(steps)
        unfreezing.switch(steps - 1)
    return loop_s / run.context.processes


def _with_copies(run: Run) -> Run:
    """Return the run with repeated training rows in place of augmented copies, which are about as long."""
    data: Any = run.recipe.data
    splits, copies = run.data.splits, run.recipe.data.augment_copies
    if not copies:
        return run
    recipe = replace(run.recipe, data=replace(data, augment=(), augment_copies=0))
    train = concatenate_datasets([splits.train] * (1 + copies))
    return run.variant(recipe=recipe, splits=replace(splits, train=train))


def _parts(
    run: Run,
    costs: RunCosts,
    before: dict[str, float],
    rows: int,
    epochs: float,
    *,
    loop_s: float,
    checkpoint_s: float,
) -> dict[str, float]:
    """Return the seconds of the stages around the training steps.

    Args:
        before: seconds of the stages before the head is fitted. `encode_s` is that of the training rows.
        rows: number of training rows.
        epochs: number of passes over them.
        loop_s: seconds of all training steps.
        checkpoint_s: seconds of writing a checkpoint.
    """
    recipe, scored, validation = run.recipe, len(evaluated_rows(run)), len(run.data.splits.validation)
    # With online augmentation a teacher predicts every epoch's views.
    predicted = scored + rows * (epochs if run.context.augments_online else 1)
    parts = {
        **before,
        "encode_s": before["encode_s"] * (1 + scored / rows),
        "layer_search_s": costs.layer_search_s * min(rows, layer_search.MOST_ROWS),
        "teacher_s": costs.teacher_s * predicted,
        "head_s": (costs.head_s + costs.score_s * min(rows, MOST_ROWS)) * recipe.fits_head,
        "cache_s": costs.cache_s * rows,
        "validation_s": (costs.score_s * validation / run.context.processes + checkpoint_s) * epochs,
        "evaluate_s": scored * (costs.evaluate_s + costs.interval_s * recipe.evaluate.resamples),
        "baselines_s": costs.baseline_s * (rows + scored) * recipe.evaluate.baselines,
        "parity_s": gate_seconds(run.context, costs.evaluate_s),
    }
    if recipe.evaluate.folds is not None:
        parts["folds_s"] = _more_training(run, rows) * (loop_s + sum(parts[name] for name in EVERY_FOLD))
    if recipe.pretrain.compare and parts["pretrain_s"]:
        again = ("head_s", "validation_s", "evaluate_s", "baselines_s", "parity_s")
        parts["without_s"] = parts["pretrain_s"] + loop_s + sum(parts[name] for name in again)
    return parts


def _more_training(run: Run, rows: int) -> float:
    """Return how much more is trained with folds: on the other folds for each, and at last on all rows.

    Args:
        rows: number of training rows.
    """
    folds, all_rows = run.recipe.evaluate.folds or 1, rows + len(run.data.splits.validation)
    return (run.recipe.evaluate.repeats * (folds - 1) + 1) * all_rows / rows - 1


def _text_lengths(run: Run, encoded: Dataset) -> dict[str, float] | None:
    inputs = run.data.inputs
    if not isinstance(inputs, TextInputs):
        return None
    lengths = np.asarray(encoded["length"][:])
    truncation = inputs.truncation(encoded, limit=position_limit(run.model.network.config))
    return {
        "mean": round(float(lengths.mean()), 1),
        "longest": int(lengths.max()),
        "truncated_share": truncation.share,
        # See `data.inputs.Truncation`.
        "proposed_length": truncation.length,
        "proposed_holds": round(truncation.holds, 4),
        "proposed_cost": round(truncation.cost, 2),
    }


def _ways_to_read(run: Run, encoded: Dataset, loop_s: float) -> list[dict[str, Any]]:
    """Return what each way to read long texts costs, in proportion to its tokens."""
    inputs = run.data.inputs
    if not isinstance(inputs, TextInputs) or inputs.one_way(encoded) is not None:
        return []
    lengths, limit = inputs.whole_lengths(encoded), position_limit(run.model.network.config)
    if not lengths.longer(inputs.max_length):
        return []
    stride = min(Sliding().stride, inputs.max_length // 2)
    others = [way for way in (TRUNCATE, HeadTail(), Sliding(stride), Chunk()) if type(way) is not type(inputs.long)]
    return [
        {
            "flags": way.flags,
            "cut_off": round(way.cut_off, 4),
            "tokens": round(way.tokens, 1),
            "cost": round(way.cost, 2),
            "train_loop_s": _three_digits(loop_s * way.cost),
        }
        for way in ways(lengths, inputs.long, inputs.reader, others, limit=limit)
    ]


def _planned_schedule(run: Run, costs: RunCosts, steps: int, plot: Path | None) -> PlannedSchedule:
    name = schedule(run.context).name
    curve = np.array(factors(schedule(run.context), steps)[:steps])
    if plot is not None:
        lines = {group: (range(steps), (rate * curve).tolist()) for group, rate in costs.peaks.items()}
        title = f"{run.recipe.name}: {name}"
        chart = line_chart(lines, title=title, x_label="optimizer step", y_label="learning rate")
        write_bytes(plot, render(chart, "svg")[0])
    return PlannedSchedule(name, costs.peaks, sparkline(curve.tolist()))


def _estimate(run: Run, loop_s: float, parts: dict[str, float]) -> dict[str, float]:
    student_s = _three_digits(loop_s)
    teacher = {"teacher_s": _three_digits(parts["teacher_s"]), "student_s": student_s}
    return {
        "train_loop_s": student_s,
        "total_s": _three_digits(loop_s + sum(parts.values())),
        **({} if run.teachers is None else teacher),
        **memory(run.context.device),
    }


def _three_digits(seconds: float) -> float:
    return float(f"{seconds:.3g}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
