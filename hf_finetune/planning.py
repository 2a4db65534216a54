"""What a run would do and cost, from its data and a few timed steps on a copy that is thrown away."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import torch

from hf_finetune.data.batching import StepBatches
from hf_finetune.data.inputs import Rows, TextInputs, columns_of, with_labels
from hf_finetune.environment import hardware, memory
from hf_finetune.evaluation.inference import cast
from hf_finetune.models import freeze
from hf_finetune.preparation import prepare, with_adapter
from hf_finetune.recipe import Recipe
from hf_finetune.training.arguments import default_learning_rate
from hf_finetune.training.losses import cross_entropy
from hf_finetune.training.trainer import planned_steps
from hf_finetune.training.warm_start import MOST_ROWS

logger = logging.getLogger("hf_finetune")
# Start-up, baselines and the parity gate: about this many seconds, whatever the data.
FIXED_SECONDS = 30
# Quantiles of a step's size at which steps are timed; the time of the others is read off a straight line.
TIMED_AT = (0.1, 0.5, 0.9)


def plan(recipe: Recipe) -> dict[str, Any]:
    """Load the data and the checkpoint, time three optimiser steps, and add up. Nothing is trained or written.

    Returns:
        Rows, lengths, steps, learning rate, parameters, and estimates of seconds and of peak memory in megabytes.

    Raises:
        InputError: whatever would stop the run.
    """
    prepared = prepare(recipe)
    inputs, splits, train = prepared.inputs, prepared.splits, recipe.train
    encoded = inputs.encode(splits.train)
    lengths = inputs.lengths(encoded)
    _, accumulation, rows_per_step = prepared.micro_batch
    batches = StepBatches(
        len(encoded),
        rows_per_step=rows_per_step,
        accumulation=accumulation,
        lengths=lengths if recipe.batching.by_length else None,
        seed=train.seed,
        processes=prepared.processes,
    )
    whole = planned_steps(len(encoded), rows_per_step, train.num_train_epochs)
    steps = whole if train.max_steps < 0 else train.max_steps

    model = prepared.model.to(prepared.device).train()
    if recipe.trained not in ("full", "head"):
        model = with_adapter(model, recipe, prepared.fresh)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.0, fused=True)
    rows = Rows(encoded, columns_of(inputs, labels=True))

    def step(indices: np.ndarray) -> float:
        started = time.perf_counter()
        for part in np.array_split(indices, accumulation):
            batch = {k: v.to(prepared.device) for k, v in with_labels(inputs.collate, rows.__getitems__(part)).items()}
            labels = batch.pop("labels")
            with cast(prepared.device, prepared.autocast):
                loss = cross_entropy(model(**batch).logits, labels) / len(indices)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        float(loss)
        return time.perf_counter() - started

    all_steps = [s[: max(1, len(s) // prepared.processes)] for s in batches.step_rows()]
    sizes = np.array([_padded_tokens(s, lengths, accumulation) for s in all_steps], dtype=float)
    order = np.argsort(sizes, kind="stable")
    chosen = [int(order[int(q * (len(order) - 1))]) for q in TIMED_AT]
    step(all_steps[chosen[-1]])  # allocations and kernel choices of the first step are not the rule
    timed = np.array([min(step(all_steps[i]) for _ in range(2)) for i in chosen])
    spread = np.ptp(sizes[chosen]) > 0
    slope, base = np.polyfit(sizes[chosen], timed, 1) if spread else (0.0, float(timed.mean()))
    per_epoch = float(np.maximum(base + slope * sizes, timed.min() * 0.5).sum())
    loop = per_epoch * steps / batches.steps
    # A forward pass in evaluation is about a third of a training step; validation runs every epoch, the rest once.
    per_row = per_epoch / len(encoded) / 3
    epochs = steps / batches.steps
    test = 0 if splits.test is None else len(splits.test)
    forward = per_row * (
        min(len(encoded), MOST_ROWS) * train.head_warm_start + len(splits.validation) * (epochs + 2) + 2 * test
    )
    trained, total = freeze.trainable_parameters(model)
    return {
        "name": recipe.name,
        "rows": {"train": len(encoded), "validation": len(splits.validation), "test": test},
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
        "rows_per_step": rows_per_step,
        "learning_rate": train.learning_rate or default_learning_rate(recipe.trained, recipe.task),
        "mixed_precision": prepared.mixed_precision,
        "parameters": {"trained": trained, "total": total},
        "estimate": {
            "train_loop_s": round(loop, 1),
            "total_s": round(loop + forward + FIXED_SECONDS, 1),
            **memory(prepared.device),
        },
        "environment": hardware(prepared.device, prepared.processes),
    }


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
        f"parameters    {made['parameters']['trained']:,} of {made['parameters']['total']:,} train",
        f"training      about {_duration(estimate['train_loop_s'])}",
        f"everything    about {_duration(estimate['total_s'])}",
        f"memory        about {estimate['peak_rss_mb']:,.0f} MB",
    ]
    return "\n".join([*lines, *(f"note          {note}" for note in made["notes"])])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
