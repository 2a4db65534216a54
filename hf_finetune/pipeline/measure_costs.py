"""Measure what a few steps and rows of a run cost, by its own code, in a temporary folder."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.batching import StepBatches
from hf_finetune.data.image_decoding import count_within
from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.labels import labels_of
from hf_finetune.data.ragged import flat
from hf_finetune.data.unlabeled import labeled_rows, with_labeled_row
from hf_finetune.data.word_inputs import encoded_of, sources
from hf_finetune.distillation.feature_matching import layer_search
from hf_finetune.pipeline import pretrain_setup
from hf_finetune.pipeline.augment import run_augmenter
from hf_finetune.pipeline.batch_plan import micro_batch, step_batches
from hf_finetune.pipeline.choose_kernels import default_kernels, probe_kernels
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.evaluate import predict
from hf_finetune.pipeline.run import fit_dry
from hf_finetune.training.callbacks import LOG, loop_seconds, read_log
from hf_finetune.training.probe import KernelChoice
from hf_finetune.utils.messages import silenced

# Steps that are timed, at evenly spaced quantiles of their size, the largest included.
STEPS, PRETRAINING_STEPS = 12, 8
# Rows that are timed in evaluation, in the linear baseline, and in offline augmentation.
ROWS, BASELINE_ROWS, ROWS_COPIED = 256, 2_000, 64
RESAMPLES = 100
# Pixels of images that are decoded for each of these.
PIXELS = 50_000_000


@dataclass(frozen=True)
class StepTimes:
    """Seconds of an optimizer step, linear in its size (padded tokens, or images)."""

    base_s: float
    slope_s: float
    least_s: float
    """Seconds of the fastest step."""

    def total(self, sizes: np.ndarray) -> float:
        """Return the seconds of steps of these sizes, shape (steps,)."""
        return float(np.maximum(self.base_s + self.slope_s * sizes, self.least_s / 2).sum())


@dataclass(frozen=True)
class RunCosts:
    """Measured costs: seconds per row, where nothing else is said."""

    network: PreTrainedModel
    """The network after a few steps, with its adapter."""
    mixed_precision: str
    steps: StepTimes
    encode_s: float = 0.0
    head_s: float = 0.0
    """Seconds of fitting the head, without its forward passes."""
    cache_s: float = 0.0
    score_s: float = 0.0
    """Validation during training."""
    evaluate_s: float = 0.0
    interval_s: float = 0.0
    """Per row and resample."""
    baseline_s: float = 0.0
    peaks: dict[str, float] = field(default_factory=dict)
    """Peak learning rates by group of parameters."""
    teacher_s: float = 0.0
    layer_search_s: float = 0.0


def measure_costs(run: Run, encoded: Dataset, epoch: StepBatches, steps: int) -> RunCosts:
    """Train on the rows of a few steps and evaluate a few rows, including the longest of all.

    So this process needs as much memory as the run, and its peak is the estimate.

    Args:
        encoded: training rows.
        epoch: optimizer steps of an epoch.
        steps: optimizer steps of the run.
    """
    indices, evaluated = rows_of_steps(run, encoded, epoch), evaluated_rows(run)
    some = np.random.default_rng(0).permutation(len(evaluated))[:ROWS]
    scored = evaluated.select(np.sort(few_images(evaluated, some, least=1)))
    # Images all have one size when they are decoded: where a few are decoded, these repeat.
    decoded = few_images(run.data.splits.train, indices)
    indices = np.sort(np.resize(decoded, len(indices)))
    small = _small_run(run, indices, scored)
    choice = KernelChoice(default_kernels(run))
    if not run.recipe.uses_adapter:
        network: nn.Module = run.model.network
        network.to(run.context.device)
        choice = probe_kernels(run, run.model.network, encoded, steps)
    with isolated() as folder:
        trained = fit_dry(small, folder, choice)
        times = np.diff([line["time"] for line in read_log(folder / LOG) if "loss" in line])
        evaluate_s, interval_s = _time_evaluation(small, trained.network, evaluated)
    rows, clock, optimizer = len(indices), trained.clock, trained.trainer.optimizer
    score_s = trained.trainer.clock.outside.seconds / len(scored)
    lengths = run.data.inputs.lengths(encoded.select(encoded_of(encoded, indices)))
    return RunCosts(
        trained.network,
        choice.kernels.mixed_precision,
        step_times(small, times, trained.trainer.clock.loop.seconds, lengths),
        encode_s=clock.seconds("encode_s") / len(decoded),
        head_s=max(0.0, clock.seconds("head_warm_start_s") - rows * score_s),
        cache_s=clock.seconds("cache_s") / rows,
        score_s=score_s,
        evaluate_s=evaluate_s,
        interval_s=interval_s,
        baseline_s=_time_baseline(run, scored),
        peaks={group["part"]: group["initial_lr"] for group in optimizer.param_groups},
        teacher_s=clock.seconds("teacher_s") / (rows + len(scored)),
        layer_search_s=clock.seconds("layer_search_s") / min(rows, layer_search.MOST_ROWS),
    )


def step_sizes(run: Run, steps: list[np.ndarray], lengths: np.ndarray | None) -> np.ndarray:
    """Return the padded tokens of each step, or its images, shape (steps,)."""
    accumulation = micro_batch(run).accumulation
    return np.array([_padded_tokens(step, lengths, accumulation) for step in steps], dtype=float)


def _padded_tokens(indices: np.ndarray, lengths: np.ndarray | None, accumulation: int) -> int:
    if lengths is None:
        return len(indices)
    return sum(len(part) * int(lengths[part].max()) for part in np.array_split(indices, accumulation) if len(part))


def _spread(sizes: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of steps at evenly spaced quantiles of their size, the smallest first."""
    order = np.argsort(sizes, kind="stable")
    return order[np.linspace(0, len(order) - 1, count).round().astype(int)]


def evaluated_rows(run: Run) -> Dataset:
    """Return the validation rows and, if there are any, the test rows."""
    splits = run.data.splits
    return concatenate_datasets([rows for rows in (splits.validation, splits.test) if rows is not None])


def few_images(rows: Dataset, indices: np.ndarray, *, least: int = 2) -> np.ndarray:
    """Return those of the rows whose images are decoded, beginning with one of each class; of texts all.

    Args:
        least: number of images that are decoded however large they are.
    """
    if "image" not in rows.column_names:
        return indices
    # Rows without a label (-1) come last.
    labels = labels_of(rows)[indices]
    first = np.unique(labels, return_index=True)[1][::-1]
    order = np.concatenate([first, np.setdiff1d(np.arange(len(indices)), first)])
    count = count_within((rows[int(i)]["image"] for i in indices[order]), PIXELS)
    return indices if count == len(indices) else indices[order[: max(count, least)]]


def rows_of_steps(run: Run, encoded: Dataset, epoch: StepBatches, count: int = STEPS) -> np.ndarray:
    """Return the training rows of `count` steps of an epoch, at evenly spaced quantiles of their size."""
    steps = epoch.step_rows()
    chosen = dict.fromkeys(_spread(step_sizes(run, steps, run.data.inputs.lengths(encoded)), count).tolist())
    drawn = np.concatenate([steps[i] for i in chosen])
    rows = sources(encoded, drawn)
    return with_labeled_row(rows if rows is drawn else np.unique(rows), run.data.splits.train)


def short_training(run: Run, train_rows: Dataset, **fields: Any) -> Run:
    """Return the run without early stopping, with a log line for each step, on a part of its training rows.

    Args:
        fields: further fields of `recipe.train`.
    """
    recipe, splits = run.recipe, run.data.splits
    has_several_classes = bool(np.ptp(flat(labels_of(labeled_rows(train_rows))), axis=0).any())
    train = replace(
        recipe.train,
        logging_steps=1,
        early_stopping_patience=None,
        head_warm_start=recipe.train.head_warm_start and has_several_classes,
        **fields,
    )
    return run.variant(recipe=replace(recipe, train=train), splits=replace(splits, train=train_rows))


def _small_run(run: Run, indices: np.ndarray, scored: Dataset) -> Run:
    """Return one epoch of the run on these training rows."""
    small = short_training(run, run.data.splits.train.select(indices), num_train_epochs=1, max_steps=-1)
    # `batching.sampling` has drawn these rows already.
    recipe = replace(small.recipe, batching=replace(small.recipe.batching, sampling="none"))
    return small.variant(recipe=recipe, splits=replace(small.data.splits, validation=scored, test=None))


def step_times(small: Run, times: np.ndarray, loop_s: float, lengths: np.ndarray | None) -> StepTimes:
    """Fit the seconds of a step to its size.

    Args:
        times: seconds between the ends of the steps of `small`.
        loop_s: seconds of all its steps.
        lengths: tokens of its training rows.
    """
    sizes = step_sizes(small, step_batches(small, lengths).step_rows(), lengths)
    if len(sizes) == 1:
        times = np.array([loop_s])
    else:
        # The first step is slower, as it allocates memory. Only its end is used.
        sizes = sizes[1:]
    if lengths is None or np.ptp(sizes) == 0:
        return StepTimes(0.0, float(times.sum() / sizes.sum()), float(times.min()))
    slope, base = np.polyfit(sizes, times, 1)
    return StepTimes(float(base), float(slope), float(times.min()))


def _time_evaluation(small: Run, network: nn.Module, evaluated: Dataset) -> tuple[float, float]:
    """Return the seconds per row of prediction, and the seconds per row and resample of intervals."""
    rows = small.data.splits.validation
    if isinstance(small.data.inputs, TextInputs):
        # Only for the peak of memory.
        characters = np.array([len(text) for text in evaluated["text"][:]])
        longest = np.argsort(-characters, kind="stable")[: small.recipe.train.per_device_eval_batch_size]
        predict(network, small, evaluated.select(longest))
    started = time.perf_counter()
    logits_NC = predict(network, small, rows)
    predicted = time.perf_counter()
    task = small.data.task
    task.intervals(labels_of(rows), task.scores(logits_NC), resamples=RESAMPLES)
    return (predicted - started) / len(rows), (time.perf_counter() - predicted) / len(rows) / RESAMPLES


def _time_baseline(run: Run, scored: Dataset) -> float:
    """Return the seconds per row of the linear baseline."""
    if not run.recipe.evaluate.baselines:
        return 0.0
    started = time.perf_counter()
    labeled = labeled_rows(run.data.splits.train)
    few = labeled.select(few_images(labeled, np.random.default_rng(0).permutation(len(labeled))[:BASELINE_ROWS]))
    run.data.task.baselines(few, scored)
    return (time.perf_counter() - started) / (len(few) + len(scored))


def time_copies(run: Run) -> float:
    """Return the seconds of offline augmentation, estimated from a few copies."""
    rows, data = run.data.splits.train, run.recipe.data
    if not data.augment or not data.augment_copies:
        return 0.0
    views = AugmentedRows(rows, run.data.inputs, run_augmenter(run))
    few = range(min(ROWS_COPIED, len(rows)))
    with isolated():
        # The first row also loads a language model or a list of synonyms.
        views.__getitems__(range(1))
        views.set_epoch(1)
        started = time.perf_counter()
        views.__getitems__(few)
        return (time.perf_counter() - started) * data.augment_copies * len(rows) / len(few)


def time_pretraining(run: Run) -> float:
    """Return the seconds of pretraining, estimated from a few steps. They are 0 without it."""
    if run.data.pretraining_rows is None:
        return 0.0
    pretrain = run.recipe.pretrain
    with isolated() as folder:
        started = time.perf_counter()
        rows = pretrain_setup.split_pretraining_rows(run)
        encode_s = time.perf_counter() - started
        lengths, steps = run.data.inputs.lengths(rows.train), pretrain_setup.pretraining_steps(run, rows)
        sizes = np.array([_padded_tokens(step, lengths, accumulation=1) for step in steps])
        chosen = _spread(sizes, PRETRAINING_STEPS)
        few = np.unique(np.concatenate([steps[i] for i in chosen]))
        recipe = replace(
            run.recipe,
            pretrain=replace(pretrain, num_train_epochs=1.0, max_steps=-1),
            train=replace(run.recipe.train, logging_steps=1),
        )
        timed = replace(rows, train=rows.train.select(few), held_out=rows.held_out.select([0]))
        setup = pretrain_setup.setup_pretraining(run.variant(recipe=recipe), timed)
        pretrain_setup.build_trainer(setup, folder, eval_on_start=False, saving=False).train()
        loop_s = loop_seconds(read_log(folder / LOG))
    share = sizes.sum() / sizes[np.unique(chosen)].sum()
    epochs = pretrain.num_train_epochs if pretrain.max_steps < 0 else pretrain.max_steps / len(steps)
    # A held-out row has no backward pass, a third of the cost of training on it.
    scored = len(rows.held_out) / len(rows.train) / 3
    return encode_s + loop_s * share * epochs * (1 + scored)


@contextlib.contextmanager
def isolated() -> Iterator[Path]:
    """Yield a temporary folder. The block uses a temporary cache, and neither logs nor prints."""
    cache = os.environ.get("HF_FINETUNE_CACHE")
    with tempfile.TemporaryDirectory(prefix="hf-finetune-") as folder, silenced():
        os.environ["HF_FINETUNE_CACHE"] = str(Path(folder) / "cache")
        try:
            yield Path(folder)
        finally:
            if cache is None:
                del os.environ["HF_FINETUNE_CACHE"]
            else:
                os.environ["HF_FINETUNE_CACHE"] = cache
