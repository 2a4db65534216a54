"""Final runs: the user's own recipe with and without the result of a search, evaluated on validation rows that no trial
has used."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from hf_finetune.augmentation.compose import Augmentation
from hf_finetune.data.inputs import Rows
from hf_finetune.data.labels import labels_of
from hf_finetune.data.loading import Splits
from hf_finetune.evaluation.logits import predict_logits
from hf_finetune.features.frozen_layers import TrainingRows, cache_frozen_layers
from hf_finetune.pipeline.choose_kernels import default_kernels
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.run import fit_dry, prepare
from hf_finetune.search.planning import RunCost
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.training.callbacks import read_log
from hf_finetune.training.optim.schedule_config import BY_EVALUATIONS
from hf_finetune.training.probe import KernelChoice
from hf_finetune.utils.messages import silenced

MEASURED_STEPS, MEASURED_ROWS, MEASURED_EVAL_ROWS = 3, 16, 32
"""Steps, rows per step and validation rows of the run that measures costs."""
MONITORED_ROWS = 1
"""Validation rows that the Trainer scores each epoch, unless the schedule depends on the validation loss, or the metric
is none of single rows, as R² is."""
MAX_EVAL_ROWS = 1000
"""Most validation rows that a run predicts."""


@dataclass(frozen=True)
class FinalRun:
    """Predictions of a run on the validation rows, and its times."""

    predicted: list[Any]
    """See `Task.decided`."""
    judged: float
    """`Task.judged_by`."""
    log_loss: float | None
    """None: of numbers."""
    seconds: float
    head_s: float
    """Fit of the head, which is cached for later runs of the seed, and for other seeds if only the head is random."""
    cache_s: float
    """Caching of the activations of frozen layers for all later runs."""
    step_s: float
    """Per step; without the first, which allocates memory and chooses kernels, if there are others."""
    predict_s: float


def train_final(variant: RecipeVariant, *, seed: int, steps: int, recipe_steps: int, eval_rows: int) -> FinalRun:
    """Train as `train` does, for `steps` steps, and predict validation rows with the last weights.

    Args:
        recipe_steps: steps of the recipe itself.
        eval_rows: number of validation rows to predict. Test rows are not used.
    """
    return _run(variant.with_steps(steps, seed=seed, recipe_steps=recipe_steps), eval_rows)


def measure(
    variant: RecipeVariant, augment: tuple[Augmentation, ...], *, rows: int, rows_per_step: int, eval_rows: int
) -> RunCost:
    """Measure the cost of `train_final` on a few rows.

    Args:
        augment: operations of typical cost.
        rows, rows_per_step, eval_rows: numbers of rows of the final runs.
    """
    measured_rows = min(MEASURED_ROWS, rows_per_step)
    run = _run(variant.for_timing(MEASURED_STEPS, measured_rows, augment), MEASURED_EVAL_ROWS)
    return RunCost(
        # Runs without augmentation cache the training rows, too.
        cache_s=run.cache_s * (rows + eval_rows) / len(run.predicted),
        head_s=run.head_s,
        fixed_s=run.seconds - run.head_s - run.cache_s - run.predict_s - MEASURED_STEPS * run.step_s,
        row_s=run.step_s / measured_rows,
        eval_row_s=run.predict_s / len(run.predicted),
        rows_per_step=rows_per_step,
        eval_rows=eval_rows,
    )


def evaluation_rows(splits: Splits, count: int) -> Dataset:
    """Return the validation rows that final runs predict: at most `count`, drawn at random."""
    rows = np.random.default_rng(0).permutation(len(splits.validation))[:count]
    return splits.validation.select(np.sort(rows))


def _run(variant: RecipeVariant, eval_rows: int) -> FinalRun:
    started = time.perf_counter()
    recipe = replace(variant.recipe, train=replace(variant.recipe.train, logging_steps=1))
    with silenced(), tempfile.TemporaryDirectory(prefix="hf-finetune-search-") as folder:
        prepared = prepare(recipe)
        rows = evaluation_rows(prepared.data.splits, eval_rows)
        needs_all = recipe.train.lr_scheduler_type in BY_EVALUATIONS or prepared.data.task.judged_by != "accuracy"
        monitored = rows.select(range(len(rows) if needs_all else MONITORED_ROWS))
        # A fingerprint of their own, or `train` would take the caches of these rows for those of all validation rows.
        fingerprint = f"{prepared.data.splits.fingerprint} {len(rows)} judged, {len(monitored)} watched"
        splits = replace(prepared.data.splits, validation=monitored, fingerprint=fingerprint)
        run = fit_dry(prepared.variant(splits=splits), Path(folder), KernelChoice(default_kernels(prepared)))
        trained = time.perf_counter()
        step_s = _step_seconds(Path(folder) / "log.jsonl", run.trainer.clock.loop.seconds)
        logits_NC, cache_s = _predict(run.network, prepared, rows)
    labels, scores_NC = labels_of(rows), run.task.scores(logits_NC)
    task = run.task.calibrated(labels, scores_NC)
    values = task.values(labels, scores_NC)
    return FinalRun(
        predicted=task.decided(scores_NC).tolist(),
        judged=values[task.judged_by],
        log_loss=values.get("log_loss"),
        seconds=time.perf_counter() - started,
        head_s=run.clock.seconds("head_warm_start_s"),
        cache_s=cache_s + run.clock.seconds("cache_s"),
        step_s=step_s,
        predict_s=time.perf_counter() - trained - cache_s,
    )


def _step_seconds(log: Path, loop_s: float) -> float:
    """Return the mean seconds per step from the log, which has a line for every step; `loop_s` for a single step."""
    times = [line["time"] for line in read_log(log) if "loss" in line]
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else loop_s


def _predict(model: PreTrainedModel, prepared: Run, examples: Dataset) -> tuple[np.ndarray, float]:
    """Return logits (N, C), and the seconds for caching the activations of frozen layers, if there are any."""
    recipe, encoded = prepared.recipe, prepared.data.inputs.encode(examples)
    rows = TrainingRows(prepared.data.inputs, encoded, encoded)
    if recipe.batching.cache_prefix and not recipe.uses_adapter:
        rows = cache_frozen_layers(
            model,
            prepared.data.inputs,
            encoded,
            encoded.select([0]),
            fingerprint=f"{prepared.data.splits.fingerprint} {len(examples)} judged",
            autocast=None,
            budget_gb=recipe.batching.cache_gb,
        )
    try:
        logits_NC = predict_logits(
            model,
            Rows(rows.train, rows.inputs.columns),
            rows.inputs.collate,
            batch_size=recipe.train.per_device_eval_batch_size,
            lengths=rows.inputs.lengths(rows.train),
        )
    finally:
        rows.close()
    return logits_NC, rows.build_s
