"""The runs that decide: the user's own recipe, with the result of a search and without, judged on validation rows that
no trial has seen."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from hf_finetune.augmentation.compose import Augmentation
from hf_finetune.data.inputs import Rows
from hf_finetune.data.loading import Splits
from hf_finetune.evaluation.logits import predict_logits
from hf_finetune.evaluation.metrics import row_log_losses, softmax
from hf_finetune.features.frozen_layers import TrainingRows, cache_frozen_layers
from hf_finetune.pipeline.choose_kernels import default_kernels
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.run import dry_run, prepare
from hf_finetune.search.searched_recipe import SearchedRecipe
from hf_finetune.training.callbacks import read_log
from hf_finetune.training.optim.schedule_config import BY_EVALUATIONS
from hf_finetune.training.probe import KernelChoice

MEASURED_STEPS, MEASURED_ROWS, MEASURED_SCORED = 3, 16, 32
"""Steps of so many rows that tell what a run costs, and rows that it scores."""
WATCHED = 1
"""Validation rows that the Trainer scores after an epoch, where nobody asks for it: all are where the schedule does."""
MOST_JUDGED = 1000
"""Validation rows that a run predicts, at most."""


@dataclass(frozen=True)
class FinalRun:
    """A run, and its predictions of the validation rows."""

    predicted: list[int]
    accuracy: float
    log_loss: float
    seconds: float
    head_s: float
    """Of the fit of its head, which later runs of the seed find done, and those of other seeds where only the head is
    random."""
    kept_s: float
    """Of what the frozen layers make of its rows, which all later runs find."""
    step_s: float
    """Of a step; not the first one, with its allocations and choices of kernels, where there are others."""
    score_s: float
    """Of its predictions."""


BY_ROWS = ("kept_s", "head_s", "row_s", "score_s")
"""Parts of a run's cost that grow with what a row costs."""


@dataclass(frozen=True)
class Cost:
    """What a run takes, in seconds."""

    kept_s: float
    """The first run, beside the rest."""
    head_s: float
    """The first run of every seed but the first one, whose head was fitted when this was measured, beside the rest."""
    fixed_s: float
    row_s: float
    score_s: float
    rows_per_step: int
    scored: int

    def of(self, steps: int) -> float:
        """A run of so many steps, without what is done once."""
        return self.fixed_s + steps * self.rows_per_step * self.row_s + self.scored * self.score_s

    def pairs(self, seeds: int, steps: int) -> float:
        """All runs of so many seeds, two of each."""
        return self.kept_s + (seeds - 1) * self.head_s + 2 * seeds * self.of(steps)

    def times(self, factor: float, parts: Sequence[str] = (*BY_ROWS, "fixed_s")) -> Cost:
        """Where these parts take so many times as long; all on a slower machine."""
        return replace(self, **{name: factor * getattr(self, name) for name in parts})


def train_final(searched: SearchedRecipe, *, seed: int, steps: int, whole: int, judged: int) -> FinalRun:
    """Train as `train` does, for so many steps, and predict the validation rows with the weights of the last one.

    Test rows are not looked at.

    Args:
        whole: steps of the recipe's own run.
    """
    return _run(searched.of_steps(steps, seed=seed, whole=whole), most_scored=judged)


def measure(
    searched: SearchedRecipe, augment: tuple[Augmentation, ...], *, rows: int, rows_per_step: int, scored: int
) -> Cost:
    """What `train_final` takes, by a few rows of it.

    Args:
        augment: operations like those to come.
        rows, rows_per_step, scored: of the runs to come: training rows, of a step, and validation rows.
    """
    few = min(MEASURED_ROWS, rows_per_step)
    run = _run(searched.of_few_rows(MEASURED_STEPS, few, augment), most_scored=MEASURED_SCORED)
    return Cost(
        # Without augmentation the training rows go through the frozen layers, too.
        kept_s=run.kept_s * (rows + scored) / len(run.predicted),
        head_s=run.head_s,
        fixed_s=run.seconds - run.head_s - run.kept_s - run.score_s - MEASURED_STEPS * run.step_s,
        row_s=run.step_s / few,
        score_s=run.score_s / len(run.predicted),
        rows_per_step=rows_per_step,
        scored=scored,
    )


def judged_rows(splits: Splits, most: int) -> Dataset:
    """The validation rows that runs predict, so many at most, drawn where there are more."""
    rows = np.random.default_rng(0).permutation(len(splits.validation))[:most]
    return splits.validation.select(np.sort(rows))


def _run(searched: SearchedRecipe, *, most_scored: int) -> FinalRun:
    started = time.perf_counter()
    recipe = replace(searched.recipe, train=replace(searched.recipe.train, logging_steps=1))
    with quiet(), tempfile.TemporaryDirectory(prefix="hf-finetune-search-") as folder:
        prepared = prepare(recipe)
        judged = judged_rows(prepared.data.splits, most_scored)
        watched = judged.select(range(WATCHED if recipe.train.lr_scheduler_type not in BY_EVALUATIONS else len(judged)))
        # Under a name of their own: `train` would take what is cached for these rows for that of all its own.
        name = f"{prepared.data.splits.fingerprint} {len(judged)} judged, {len(watched)} watched"
        few = replace(prepared.data.splits, validation=watched, fingerprint=name)
        run = dry_run(prepared.variant(splits=few), Path(folder), KernelChoice(default_kernels(prepared)))
        trained = time.perf_counter()
        step_s = _step_seconds(Path(folder) / "log.jsonl", run.trainer.clock.loop.seconds)
        logits_NC, kept_s = _predictions(run.network, prepared, judged)
    labels_N = np.asarray(judged["label"][:])
    return FinalRun(
        predicted=logits_NC.argmax(-1).tolist(),
        accuracy=float((logits_NC.argmax(-1) == labels_N).mean()),
        log_loss=float(row_log_losses(labels_N, softmax(logits_NC)).mean()),
        seconds=time.perf_counter() - started,
        head_s=run.clock.seconds("head_warm_start_s"),
        kept_s=kept_s + run.clock.seconds("cache_s"),
        step_s=step_s,
        score_s=time.perf_counter() - trained - kept_s,
    )


def _step_seconds(log: Path, loop_s: float) -> float:
    """Of a step, by the times at which steps ended.

    Args:
        log: has a line for every step.
        loop_s: of all steps.
    """
    times = [line["time"] for line in read_log(log) if "loss" in line]
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else loop_s


def _predictions(model: PreTrainedModel, prepared: Run, judged: Dataset) -> tuple[np.ndarray, float]:
    """Logits (N, C) of the rows, and the seconds that it took to cache what frozen layers make of them, where any
    are."""
    recipe, encoded = prepared.recipe, prepared.data.inputs.encode(judged)
    rows = TrainingRows(prepared.data.inputs, encoded, encoded)
    if recipe.batching.cache_prefix and not recipe.uses_adapter:
        rows = cache_frozen_layers(
            model,
            prepared.data.inputs,
            encoded,
            encoded.select([0]),
            fingerprint=f"{prepared.data.splits.fingerprint} {len(judged)} judged",
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing of a run's notes and bars: the search has one bar for all."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)
