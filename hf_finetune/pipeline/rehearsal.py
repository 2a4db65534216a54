"""What a few steps of a run cost: they are taken by the run's own code, in a temporary folder, and thrown away."""

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

import numpy as np
from datasets import Dataset, concatenate_datasets
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.batching import StepBatches
from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.unlabeled import labeled_rows, with_labeled_row
from hf_finetune.distillation.features import layer_search
from hf_finetune.evaluation.intervals import bootstrap
from hf_finetune.evaluation.metrics import softmax
from hf_finetune.features.baselines import linear_baseline
from hf_finetune.pipeline import pretrain
from hf_finetune.pipeline.augment import run_augmenter
from hf_finetune.pipeline.batching import micro_batch, step_batches
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.evaluate import predict
from hf_finetune.pipeline.kernels import choose_kernels, default_kernels
from hf_finetune.pipeline.run import rehearse
from hf_finetune.training.callbacks import read_log
from hf_finetune.training.probe import KernelChoice

# Steps that are rehearsed, at evenly spread quantiles of their size, the largest among them.
STEPS = 12
# Rows that stand for all in evaluation, for the training rows of the linear baseline, and for those that are copied.
ROWS, BASELINE_ROWS, ROWS_COPIED = 256, 2_000, 64
RESAMPLES = 100


@dataclass(frozen=True)
class Rehearsal:
    """What a few steps and a few rows took. Seconds, those of evaluation per row."""

    network: PreTrainedModel
    mixed_precision: str
    rows: int
    """Training rows that took part."""
    base_s: float
    """Of a step, whatever its size."""
    slope_s: float
    """Of a padded token, or an image, more in a step."""
    least_s: float
    """Of the fastest step."""
    encode_s: float = 0.0
    head_s: float = 0.0
    cache_s: float = 0.0
    score_s: float = 0.0
    evaluate_s: float = 0.0
    interval_s: float = 0.0
    """Per row and resample."""
    baseline_s: float = 0.0
    peaks: dict[str, float] = field(default_factory=dict)
    """Peak learning rates by group of parameters."""
    teacher_s: float = 0.0
    """Of a row that the teacher has not predicted before."""
    layer_search_s: float = 0.0
    """Of a row by which layers are compared."""

    def head(self, rows: int) -> float:
        """Seconds of fitting the head on so many rows: the features by the row, the rest as it was on a few."""
        return rows * self.score_s + max(0.0, self.head_s - self.rows * self.score_s)

    def loop(self, sizes: np.ndarray) -> float:
        """Seconds of steps of these sizes, shape (steps,)."""
        return float(np.maximum(self.base_s + self.slope_s * sizes, self.least_s / 2).sum())


def step_sizes(run: PreparedRun, steps: list[np.ndarray], lengths: np.ndarray | None) -> np.ndarray:
    """Padded tokens of each step, or its images, shape (steps,)."""
    accumulation = micro_batch(run).accumulation
    return np.array([_padded_tokens(step, lengths, accumulation) for step in steps], dtype=float)


def _padded_tokens(indices: np.ndarray, lengths: np.ndarray | None, accumulation: int) -> int:
    if lengths is None:
        return len(indices)
    return sum(len(part) * int(lengths[part].max()) for part in np.array_split(indices, accumulation) if len(part))


def rehearse_steps(run: PreparedRun, encoded: Dataset, batches: StepBatches, steps: int) -> Rehearsal:
    """Train on the rows of some steps through the run's own code, then score, with the longest rows of all among them.

    So this process takes the memory that the run takes, and its peak is the estimate.

    Args:
        encoded: training rows.
        batches: the steps of an epoch.
        steps: of the run.
    """
    rows = _rows_of_some_steps(run, encoded, batches)
    judged = evaluated_rows(run)
    some = np.sort(np.random.default_rng(0).permutation(len(judged))[:ROWS])
    small = _small_run(run, rows, judged.select(some))
    choice = KernelChoice(default_kernels(run))
    if not run.recipe.uses_adapter:
        network: nn.Module = run.model.network
        network.to(run.context.device)
        choice = choose_kernels(run, run.model.network, encoded, steps)
    with alone() as folder:
        trained = rehearse(small, folder, choice)
        times = np.diff([line["time"] for line in read_log(folder / "log.jsonl") if "loss" in line])
        score_s = trained.trainer.clock.outside.seconds / len(some)
        evaluate_s, interval_s = _time_evaluation(small, trained.network, judged)
    base_s, slope_s, least_s = _fit_times(
        small, times, trained.trainer.clock.loop.seconds, run.data.inputs.lengths(encoded.select(rows))
    )
    clock, optimizer = trained.clock, trained.trainer.optimizer
    assert optimizer is not None, "it has trained"
    return Rehearsal(
        trained.network,
        choice.kernels.mixed_precision,
        len(rows),
        base_s,
        slope_s,
        least_s,
        encode_s=clock.seconds("encode_s"),
        head_s=clock.seconds("head_warm_start_s"),
        cache_s=clock.seconds("cache_s"),
        score_s=score_s,
        evaluate_s=evaluate_s,
        interval_s=interval_s,
        baseline_s=_time_baseline(run, judged.select(some)),
        peaks={group["part"]: group["initial_lr"] for group in optimizer.param_groups},
        teacher_s=clock.seconds("teacher_s") / (len(rows) + len(some)),
        layer_search_s=clock.seconds("layer_search_s") / min(len(rows), layer_search.MOST_ROWS),
    )


def evaluated_rows(run: PreparedRun) -> Dataset:
    """Validation rows, and test rows where there are any."""
    splits = run.data.splits
    return concatenate_datasets([rows for rows in (splits.validation, splits.test) if rows is not None])


def _rows_of_some_steps(run: PreparedRun, encoded: Dataset, batches: StepBatches) -> np.ndarray:
    """Places of the training rows of steps of evenly spread sizes, in order."""
    steps = batches.step_rows()
    order = np.argsort(step_sizes(run, steps, run.data.inputs.lengths(encoded)), kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, STEPS).round().astype(int))]
    return with_labeled_row(np.concatenate([steps[i] for i in chosen]), run.data.splits.train)


def _small_run(run: PreparedRun, rows: np.ndarray, scored: Dataset) -> PreparedRun:
    """One epoch of the run on these training rows, a line of the log for each step."""
    recipe, train = run.recipe, run.data.splits.train.select(rows)
    several_classes = len(set(labeled_rows(train)["label"][:])) > 1
    shorter = replace(
        recipe.train,
        num_train_epochs=1,
        max_steps=-1,
        logging_steps=1,
        early_stopping_patience=None,
        head_warm_start=recipe.train.head_warm_start and several_classes,
    )
    # The rows of these steps were drawn already.
    recipe = replace(recipe, train=shorter, batching=replace(recipe.batching, sampling="none"))
    return run.varied(recipe=recipe, splits=replace(run.data.splits, train=train, validation=scored, test=None))


def _fit_times(
    small: PreparedRun, times: np.ndarray, loop_s: float, lengths: np.ndarray | None
) -> tuple[float, float, float]:
    """See `Rehearsal.base_s`, `slope_s` and `least_s`.

    Args:
        small: what was rehearsed.
        times: between the ends of its steps.
        loop_s: of all its steps.
        lengths: tokens of its training rows.
    """
    sizes = step_sizes(small, step_batches(small, lengths).step_rows(), lengths)
    if len(sizes) == 1:
        times = np.array([loop_s])
    else:
        # The first step, with its allocations and choices of kernels, is not the rule; its end starts the clock.
        sizes = sizes[1:]
    if lengths is None or np.ptp(sizes) == 0:
        return 0.0, float(times.sum() / sizes.sum()), float(times.min())
    slope, base = np.polyfit(sizes, times, 1)
    return float(base), float(slope), float(times.min())


def _time_evaluation(small: PreparedRun, network: nn.Module, judged: Dataset) -> tuple[float, float]:
    """Seconds a row from text or image to logits, and seconds of intervals a row and resample."""
    rows = small.data.splits.validation
    if isinstance(small.data.inputs, TextInputs):
        characters = np.array([len(text) for text in judged["text"][:]])
        longest = np.argsort(-characters, kind="stable")[: small.recipe.train.per_device_eval_batch_size]
        predict(network, small, judged.select(longest))
    started = time.perf_counter()
    logits_NC = predict(network, small, rows)
    evaluated = time.perf_counter()
    bootstrap(np.asarray(rows["label"][:]), softmax(logits_NC), resamples=RESAMPLES)
    return (evaluated - started) / len(rows), (time.perf_counter() - evaluated) / len(rows) / RESAMPLES


def _time_baseline(run: PreparedRun, scored: Dataset) -> float:
    """Seconds of the linear baseline, a row."""
    if not run.recipe.evaluate.baselines:
        return 0.0
    started = time.perf_counter()
    able = labeled_rows(run.data.splits.train)
    few = able.select(np.random.default_rng(0).permutation(len(able))[:BASELINE_ROWS])
    linear_baseline(few, {"some": scored}, num_labels=len(run.data.splits.labels))
    return (time.perf_counter() - started) / (len(few) + len(scored))


def time_copies(run: PreparedRun) -> float:
    """Seconds that the stored copies take to make, by a few of them."""
    rows, augmenter, copies = run.data.splits.train, run_augmenter(run), run.recipe.data.augment_copies
    if augmenter is None or copies == 0:
        return 0.0
    views, some = AugmentedRows(rows, run.data.inputs, augmenter), range(min(ROWS_COPIED, len(rows)))
    with alone():
        # The first row waits for a language model, or a list of synonyms.
        views.__getitems__(range(1))
        views.set_epoch(1)
        started = time.perf_counter()
        views.__getitems__(some)
        return (time.perf_counter() - started) * copies * len(rows) / len(some)


def time_pretraining(run: PreparedRun) -> float:
    """Seconds of the pretraining, see `pipeline.pretrain.estimate`; 0 where there is none."""
    if run.data.pretraining_rows is None:
        return 0.0
    with alone() as folder:
        return pretrain.estimate(run, folder)


@contextlib.contextmanager
def alone() -> Iterator[Path]:
    """A temporary folder, and a cache of its own: what is done inside finds and leaves nothing, and says nothing."""
    before, level = os.environ.get("HF_FINETUNE_CACHE"), logging.root.manager.disable
    with tempfile.TemporaryDirectory(prefix="hf-finetune-") as folder:
        os.environ["HF_FINETUNE_CACHE"] = str(Path(folder) / "cache")
        logging.disable(logging.INFO)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                yield Path(folder)
        finally:
            logging.disable(level)
            if before is None:
                del os.environ["HF_FINETUNE_CACHE"]
            else:
                os.environ["HF_FINETUNE_CACHE"] = before
