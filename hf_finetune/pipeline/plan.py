"""What a run would do and cost: a rehearsal on a few of its steps, thrown away, and the parts added up."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.config.recipe import Recipe
from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.unlabeled import labeled_rows, with_labeled_row
from hf_finetune.distillation import layer_search
from hf_finetune.evaluation.intervals import bootstrap
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.features.baselines import linear_baseline
from hf_finetune.models import freezing
from hf_finetune.pipeline import pretrain, run
from hf_finetune.pipeline.before_training import choose_kernels, gradual_unfreezing
from hf_finetune.pipeline.context import Prepared
from hf_finetune.pipeline.finalize import as_used, logits_of
from hf_finetune.pipeline.setup import prepare
from hf_finetune.training.callbacks import read_log
from hf_finetune.training.optim.schedules import factors
from hf_finetune.training.probe import Choice
from hf_finetune.training.warm_start import MOST_ROWS
from hf_finetune.utils.codec import write_text
from hf_finetune.utils.environment import hardware, memory, seconds_since_start
from hf_finetune.utils.plots import line_chart, sparkline

# Steps that are rehearsed, at evenly spread quantiles of their size, the largest among them.
STEPS = 12
# Rows that stand for all in evaluation, for the training rows of the linear baseline, and for those that are copied.
ROWS, BASELINE_ROWS, ROWS_COPIED = 256, 2_000, 64
RESAMPLES = 100
# The parity gate's process reads a little less than this one did until now, then loads the model and scores a few rows.
PARITY_SECONDS = 1.0
# Weights and optimiser states written, read again for their digest, and synchronised.
DISK_BYTES_PER_S = 5e8


def plan(recipe: Recipe, *, plot: Path | None = None) -> dict[str, Any]:
    """Load the data and the checkpoint, train a few steps in a temporary folder, and add up. Nothing is kept.

    Args:
        recipe: what would be run.
        plot: file for a picture (SVG) of the learning rates, a line for each group that has its own.

    Returns:
        Rows, lengths, steps, learning rate, parameters, and estimates of seconds and of peak memory in megabytes.

    Raises:
        InputError: whatever would stop the run.
    """
    begun = seconds_since_start()
    prepared = prepare(recipe)
    augment_s = _copying_seconds(prepared)
    prepared = _with_copies(prepared)
    inputs, splits, train = prepared.inputs, prepared.splits, recipe.train
    started = time.perf_counter()
    # Pictures are decoded as they are needed: the rehearsal tells how long that takes.
    encoded = inputs.encode(splits.train) if isinstance(inputs, TextInputs) else splits.train
    encode_s = time.perf_counter() - started
    lengths = inputs.lengths(encoded)
    batches = prepared.batches(lengths)
    steps = batches.planned(train.num_train_epochs, train.max_steps)
    sizes = np.array([_padded_tokens(s, lengths, prepared.micro_batch[1]) for s in batches.step_rows()], dtype=float)
    ready = seconds_since_start() - encode_s

    rehearsal = _rehearse(prepared, encoded, batches.step_rows(), sizes, steps)
    curve = np.array(factors(prepared.course, steps)[:steps])
    if plot is not None:
        lines = {part: (range(steps), rate * curve) for part, rate in rehearsal.peaks.items()}
        title = f"{recipe.name}: {prepared.course.name}"
        write_text(plot, line_chart(lines, title=title, x_label="optimiser step"))
    epochs = steps / batches.steps
    loop = rehearsal.loop(sizes) * epochs / prepared.processes
    if (unfreezing := gradual_unfreezing(prepared, rehearsal.model, epoch_steps=batches.steps)) is not None:
        # In the rehearsal all layers trained in every step.
        loop *= unfreezing.work(steps)
        unfreezing.switch(steps - 1)
    judged = [splits.validation, *([] if splits.test is None else [splits.test])]
    scored, share = sum(map(len, judged)), len(encoded) / rehearsal.rows
    # A teacher of views that change in every epoch answers all of them.
    asked = scored + len(encoded) * (epochs if prepared.changes_every_epoch else 1)
    trained, total = freezing.trainable_parameters(rehearsal.model)
    saved = 4 * (total + 2 * trained) / DISK_BYTES_PER_S
    pretrain_s = _pretraining_seconds(prepared)
    parts = {
        "start_s": ready,
        "pretrain_s": pretrain_s,
        "augment_s": augment_s,
        "encode_s": (encode_s or rehearsal.encode_s * share) * (1 + scored / len(encoded)),
        "layer_search_s": rehearsal.layer_search_s * min(len(encoded), layer_search.MOST_ROWS),
        "teacher_s": rehearsal.teacher_s * asked,
        "head_s": rehearsal.head(min(len(encoded), MOST_ROWS)) * recipe.fits_head,
        "cache_s": rehearsal.cache_s * share,
        "validation_s": rehearsal.score_s * len(splits.validation) * epochs / prepared.processes + saved * epochs,
        "evaluate_s": rehearsal.evaluate_s * scored + rehearsal.interval_s * scored * recipe.evaluate.resamples,
        "baselines_s": rehearsal.baseline_s * (len(encoded) + scored) * recipe.evaluate.baselines,
        "parity_s": begun + PARITY_SECONDS,
    }
    if recipe.pretrain.compare and pretrain_s:
        again = ("head_s", "validation_s", "evaluate_s", "baselines_s", "parity_s")
        parts["without_s"] = pretrain_s + loop + sum(parts[name] for name in again)
    return {
        "name": recipe.name,
        "rows": {
            "train": len(encoded),
            "validation": len(splits.validation),
            "test": 0 if splits.test is None else len(splits.test),
        },
        "labels": len(splits.labels),
        "columns": splits.columns,
        "notes": list(prepared.notes),
        "tokens": None
        if lengths is None
        else {
            "mean": round(float(lengths.mean()), 1),
            "longest": int(lengths.max()),
            "truncated_share": inputs.truncated_share(encoded) if isinstance(inputs, TextInputs) else None,
        },
        "steps": steps,
        "rows_per_step": prepared.micro_batch[2]
        if recipe.batching.token_budget is None
        else round(len(encoded) / batches.steps),
        "learning_rate": prepared.learning_rate,
        "schedule": {
            "name": prepared.course.name,
            "learning_rates": rehearsal.peaks,
            "curve": sparkline(curve),
        },
        "mixed_precision": rehearsal.mixed_precision,
        "parameters": {"trained": trained, "total": total},
        "estimate": {
            "train_loop_s": _three_digits(loop),
            "total_s": _three_digits(loop + sum(parts.values())),
            **_shares(prepared, parts["teacher_s"], loop),
            **memory(prepared.device),
        },
        "parts": {name: _three_digits(seconds) for name, seconds in parts.items()},
        "environment": hardware(prepared.device, prepared.processes),
    }


def _shares(prepared: Prepared, teacher_s: float, loop_s: float) -> dict[str, float]:
    """Seconds of the teacher and of its student's training; {} where there is no teacher."""
    if prepared.teacher is None:
        return {}
    return {"teacher_s": _three_digits(teacher_s), "student_s": _three_digits(loop_s)}


@dataclass(frozen=True)
class _Rehearsal:
    """What a few steps and a few rows took. Seconds, those of evaluation per row."""

    model: Any
    mixed_precision: str
    rows: int
    """Training rows that took part."""
    base_s: float
    """Of a step, whatever its size."""
    slope_s: float
    """Of a padded token, or a picture, more in a step."""
    least_s: float
    """Of the fastest step."""
    encode_s: float
    head_s: float
    cache_s: float
    score_s: float
    evaluate_s: float
    interval_s: float
    """Per row and resample."""
    baseline_s: float
    peaks: dict[str, float] = field(default_factory=dict)
    """Peak learning rates by group of parameters."""
    teacher_s: float = 0.0
    """Of a row that the teacher was not asked about before."""
    layer_search_s: float = 0.0
    """Of a row by which layers are compared."""

    def head(self, rows: int) -> float:
        """Seconds of fitting the head on so many rows: the features by the row, the rest as it was on a few."""
        return rows * self.score_s + max(0.0, self.head_s - self.rows * self.score_s)

    def loop(self, sizes: np.ndarray) -> float:
        """Seconds of steps of these sizes, shape (steps,)."""
        return float(np.maximum(self.base_s + self.slope_s * sizes, self.least_s / 2).sum())


def _copying_seconds(prepared: Prepared) -> float:
    """What the stored copies take to make, by a few of them."""
    rows, augmentation, copies = prepared.splits.train, prepared.augmentation, prepared.recipe.data.augment_copies
    if augmentation is None or copies == 0:
        return 0.0
    views, some = AugmentedRows(rows, prepared.inputs, augmentation), range(min(ROWS_COPIED, len(rows)))
    with tempfile.TemporaryDirectory(prefix="hf-finetune-plan-") as folder, alone(Path(folder)):
        # The first row waits for a language model, or a list of synonyms.
        views.__getitems__(range(1))
        views.set_epoch(1)
        started = time.perf_counter()
        views.__getitems__(some)
        return (time.perf_counter() - started) * copies * len(rows) / len(some)


def _pretraining_seconds(prepared: Prepared) -> float:
    """Of the stage before all else, see `pipeline.pretrain.estimate`."""
    if prepared.unlabelled is None:
        return 0.0
    with tempfile.TemporaryDirectory(prefix="hf-finetune-plan-") as folder, alone(Path(folder)):
        return pretrain.estimate(prepared, Path(folder))


def _with_copies(prepared: Prepared) -> Prepared:
    """The run with its stored copies in place; they are as long as what they are copies of, or nearly."""
    data, splits = prepared.recipe.data, prepared.splits
    if not data.augment_copies:
        return prepared
    recipe = replace(prepared.recipe, data=replace(data, augment=(), augment_copies=0))
    train = concatenate_datasets([splits.train] * (1 + data.augment_copies))
    return replace(prepared, recipe=recipe, splits=replace(splits, train=train))


def _rehearse(
    prepared: Prepared, encoded: Dataset, all_steps: list[np.ndarray], sizes: np.ndarray, steps: int
) -> _Rehearsal:
    """Train on the rows of some steps through the run's own code, then score, with the longest rows of all among them.

    So this process takes the memory that the run takes, and its peak is the estimate.
    """
    recipe, splits, inputs = prepared.recipe, prepared.splits, prepared.inputs
    order = np.argsort(sizes, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, STEPS).round().astype(int))]
    rows = with_labeled_row(np.concatenate([all_steps[i] for i in chosen]), splits.train)
    judged = concatenate_datasets([splits.validation, *([] if splits.test is None else [splits.test])])
    some = np.sort(np.random.default_rng(0).permutation(len(judged))[:ROWS])
    small = replace(
        prepared,
        splits=replace(splits, train=splits.train.select(rows), validation=judged.select(some), test=None),
        recipe=replace(
            recipe,
            train=replace(
                recipe.train,
                num_train_epochs=1,
                max_steps=-1,
                logging_steps=1,
                early_stopping_patience=None,
                head_warm_start=recipe.train.head_warm_start
                and len(set(labeled_rows(splits.train.select(rows))["label"][:])) > 1,
            ),
            # The rows of these steps were drawn already.
            batching=replace(recipe.batching, sampling="none"),
        ),
    )
    choice = Choice(prepared.kernels)
    if not recipe.adapts:
        choice = choose_kernels(prepared, prepared.model.to(prepared.device), encoded, steps)
    with tempfile.TemporaryDirectory(prefix="hf-finetune-plan-") as folder, alone(Path(folder)):
        trainer, seconds, _ = run.rehearse(small, Path(folder), choice)
        log = read_log(Path(folder) / "log.jsonl")
        times = np.diff([line["time"] for line in log if "loss" in line])
        score_s = trainer.outside_seconds / len(some)
        model = trainer.trained_model()
        evaluate_s, interval_s = _evaluate(small, model, judged)
    lengths = inputs.lengths(encoded.select(rows))
    done = small.batches(lengths).step_rows()
    taken = np.array([_padded_tokens(s, lengths, prepared.micro_batch[1]) for s in done], dtype=float)
    if len(taken) == 1:
        times = np.array([trainer.loop_seconds])
    else:
        # The first step, with its allocations and choices of kernels, is not the rule; its end starts the clock.
        taken = taken[1:]
    if lengths is None or np.ptp(taken) == 0:
        base, slope = 0.0, float(times.sum() / taken.sum())
    else:
        slope, base = np.polyfit(taken, times, 1)
    started = time.perf_counter()
    able = labeled_rows(splits.train)
    few = able.select(np.random.default_rng(0).permutation(len(able))[:BASELINE_ROWS])
    if recipe.evaluate.baselines:
        linear_baseline(few, {"some": judged.select(some)}, num_labels=len(splits.labels))
    return _Rehearsal(
        model=model,
        mixed_precision=choice.kernels.mixed_precision,
        peaks={group["part"]: group["initial_lr"] for group in trainer.optimizer.param_groups},
        rows=len(rows),
        base_s=float(base),
        slope_s=float(slope),
        least_s=float(times.min()),
        encode_s=seconds["encode_s"],
        head_s=seconds.get("head_warm_start_s", 0.0),
        cache_s=seconds["cache_s"],
        teacher_s=seconds.get("teacher_s", 0.0) / (len(rows) + len(some)),
        layer_search_s=seconds.get("layer_search_s", 0.0) / min(len(rows), layer_search.MOST_ROWS),
        score_s=score_s,
        evaluate_s=evaluate_s,
        interval_s=interval_s,
        baseline_s=(time.perf_counter() - started) / (len(few) + len(some)),
    )


def _evaluate(small: Prepared, model: Any, judged: Dataset) -> tuple[float, float]:
    """Seconds a row from text or picture to logits, and seconds of intervals a row and resample."""
    small, rows = as_used(small), small.splits.validation
    if isinstance(small.inputs, TextInputs):
        characters = np.array([len(text) for text in judged["text"][:]])
        longest = np.argsort(-characters, kind="stable")[: small.recipe.train.per_device_eval_batch_size]
        logits_of(model, small, judged.select(longest))
    started = time.perf_counter()
    found = logits_of(model, small, rows)
    evaluated = time.perf_counter()
    bootstrap(np.asarray(rows["label"][:]), softmax(found), resamples=RESAMPLES)
    return (evaluated - started) / len(rows), (time.perf_counter() - evaluated) / len(rows) / RESAMPLES


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """What is built inside neither is found from before nor stays, and nothing is said of it."""
    before, level = os.environ.get("HF_FINETUNE_CACHE"), logging.root.manager.disable
    os.environ["HF_FINETUNE_CACHE"] = str(folder / "cache")
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)
        if before is None:
            del os.environ["HF_FINETUNE_CACHE"]
        else:
            os.environ["HF_FINETUNE_CACHE"] = before


def _three_digits(seconds: float) -> float:
    return float(f"{seconds:.3g}")


def _padded_tokens(indices: np.ndarray, lengths: np.ndarray | None, accumulation: int) -> int:
    if lengths is None:
        return len(indices)
    return sum(len(part) * int(lengths[part].max()) for part in np.array_split(indices, accumulation) if len(part))


def describe(made: dict[str, Any]) -> str:
    """A plan as a few lines of text."""
    rows, estimate, tokens = made["rows"], made["estimate"], made["tokens"]
    lines = [
        f"{made['name']}: {rows['train']} train, {rows['validation']} validation, {rows['test']} test rows, {made['labels']} classes",
        *(
            []
            if tokens is None
            else [
                f"tokens        {tokens['mean']} a row on average, {tokens['longest']} at most, "
                f"{100 * (tokens['truncated_share'] or 0):.1f}% of the rows cut off"
            ]
        ),
        f"steps         {made['steps']} of {made['rows_per_step']} rows, learning rate {made['learning_rate']:g}, {made['mixed_precision']}",
        f"schedule      {made['schedule']['name']} {made['schedule']['curve']}",
        *(
            f"              {part} {rate:.3g}"
            for part, rate in made["schedule"]["learning_rates"].items()
            if len(made["schedule"]["learning_rates"]) > 1
        ),
        f"parameters    {made['parameters']['trained']:,} of {made['parameters']['total']:,} train",
        *([f"pretraining   about {_duration(before)}"] if (before := made["parts"].get("pretrain_s", 0.0)) else []),
        f"training      about {_duration(estimate['train_loop_s'])}",
        *(
            f"{name:<13} about {_duration(estimate[f'{name}_s'])}"
            for name in ("teacher", "student")
            if f"{name}_s" in estimate
        ),
        f"everything    about {_duration(estimate['total_s'])}",
        f"memory        about {estimate['peak_rss_mb']:,.0f} MB",
    ]
    return "\n".join([*lines, *(f"note          {note}" for note in made["notes"])])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
