"""Fit the classification layer to the network's features before the first step (linear probing, then fine-tuning).

Legend: N rows, C classes, D features.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch import nn

from hf_finetune.data.duplicates import first_sources
from hf_finetune.data.inputs import Rows, TextInputs, columns_of, sample_rows
from hf_finetune.data.labels import is_labeled, labels_of
from hf_finetune.data.ragged import flat
from hf_finetune.data.sampling import classes_of, draws_per_row
from hf_finetune.data.word_inputs import sources, word_counts
from hf_finetune.models.modules import classification_layers, set_layer
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.optimization import shortcuts
from hf_finetune.pipeline.record import HeadStart
from hf_finetune.pipeline.run_setup import RunSetup
from hf_finetune.pipeline.training_loss import class_shifts, class_weights
from hf_finetune.tasks.base import HeadFit
from hf_finetune.training import head_cache, warm_start
from hf_finetune.training.warm_start import FittedHead

logger = logging.getLogger("hf_finetune.run")


def fit_head(setup: RunSetup) -> RunSetup:
    """Fit the classification layer to the labeled rows, see `training.warm_start`, or take the fit of an earlier run.
    `Run.start_heads` are taken in place of a fit.

    Both heads of a DeiT with a distillation token are fitted to the labels, which the teacher predicts for most rows.
    The head of a resumed run comes from its checkpoint. One process is enough: the others get its weights when training
    starts.
    """
    run = setup.run
    fits = run.recipe.fits_head or bool(run.start_heads)
    if not fits or setup.resume_from is not None or not PartialState().is_main_process:
        return setup
    if run.start_heads:
        return replace(setup, record=replace(setup.record, head=_take_heads(run, classification_layers(setup.network))))
    with setup.clock.measure("head_warm_start_s"):
        return replace(setup, record=replace(setup.record, head=_fit_or_load(setup)))


def _take_heads(run: Run, layers: Sequence[nn.Linear]) -> HeadStart:
    """Copy `Run.start_heads` to `layers` as they are: another run has trained them, with its logit adjustment, and its
    score has chosen them, whatever a fit to the features explains."""
    for layer, head in zip(layers, run.start_heads, strict=True):
        set_layer(layer, head.weight_CD, head.bias_C)
    explained = run.start_heads[0].explained
    logger.info(
        "the head starts as a simpler run trained it: a fit to the features %s", run.data.task.explained(explained)
    )
    return HeadStart(round(explained, 4), fitted=True)


def _fit_or_load(setup: RunSetup) -> HeadStart | None:
    run, network = setup.run, setup.network
    sample, layers = _draw_sample(setup), classification_layers(network)
    entries = _cache_entries(setup, layers, sample)
    heads = [head for entry in entries if (head := head_cache.read(entry)) is not None]
    if len(heads) == len(layers):
        return init_head(run, layers, heads, "as an earlier run on this machine fitted it to the same rows")
    try:
        features = _features(setup, layers, sample)
    except warm_start.NotOfRows:
        kind = network.config.model_type
        logger.info("the head is not fitted: a row's logits are made of its tokens' in this %s", kind)
        return None
    settings = fit_settings(run)
    fit = HeadFit(
        settings.inverse_strength,
        sample.weights_N,
        sample.first_N,
        sample.positive_C,
        stronger=settings.stronger,
    )
    heads = [run.data.task.fit_head(features_ND, sample.labels, fit) for features_ND in features]
    for entry, head in zip(entries, heads, strict=True):
        head_cache.write(entry, head, budget_gb=run.recipe.batching.cache_gb)
    return init_head(run, layers, heads, "fitted")


@dataclass(frozen=True)
class _Sample:
    """The rows to which the head is fitted."""

    indices: np.ndarray
    """Indices of the training rows, shape (N,)."""
    rows: Dataset
    """Encoded rows."""
    labels: Any
    """An array, or `Ragged`."""
    first_N: np.ndarray
    """For each row the first one from the same source."""
    weights_C: np.ndarray | None
    weights_N: np.ndarray | None
    positive_C: np.ndarray | None
    """See `HeadFit`."""


def _draw_sample(setup: RunSetup) -> _Sample:
    run, train_rows = setup.run, setup.encoded.train
    labels = labels_of(train_rows)
    labeled = np.flatnonzero(is_labeled(labels))
    counts = word_counts(train_rows)
    most = warm_start.MOST_ROWS if counts is None else max(1, int(warm_start.MOST_WORDS / counts.mean()))
    drawn = sample_rows(
        run.data.inputs, train_rows, min(most, warm_start.MOST_ROWS), seed=run.recipe.train.seed, among=labeled
    )
    indices = run.data.task.with_every_output(drawn, labels)
    by_content = isinstance(run.data.inputs, TextInputs) or not run.recipe.data.augment_copies
    first_N = first_sources(run.data.splits.train.select(sources(train_rows, indices)), by_content=by_content)
    weights_C = head_weights(run)
    weights_N = None if weights_C is None else weights_C[flat(classes_of(labels)[indices])]
    positive = class_weights(run) if run.data.task.weighs_positives else None
    positive_C = None if positive is None else np.asarray(positive)
    return _Sample(indices, train_rows.select(indices), labels[indices], first_N, weights_C, weights_N, positive_C)


def _cache_entries(setup: RunSetup, layers: Sequence[nn.Linear], sample: _Sample) -> list[Path]:
    """Return the cache entry of each layer's fitted head."""
    run, rows, inputs = setup.run, setup.rows, setup.run.data.inputs
    # The data's fingerprint and the row identify an image.
    columns = ("row", *columns_of(inputs, labels=True))
    settings = {
        "data": run.data.splits.fingerprint,
        "inputs": inputs.max_length if isinstance(inputs, TextInputs) else inputs.processor.to_json_string(),
        "autocast": str(run.context.autocast),
        "batch_size": run.recipe.train.per_device_eval_batch_size,
        "cached_layers": rows.layer if rows.why_uncached is None else 0,
        "inverse_strength": fit_settings(run).inverse_strength,
        "stronger": fit_settings(run).stronger,
        "repeated": [(i, int(first)) for i, first in enumerate(sample.first_N) if i != first],
        **({} if sample.weights_C is None else {"class_weights": sample.weights_C.tolist()}),
        **({} if sample.positive_C is None else {"positive_weights": sample.positive_C.tolist()}),
    }
    encoded = sample.rows.select_columns([c for c in columns if c in sample.rows.column_names and c != "image"])
    return [
        head_cache.entry(setup.network, layers, encoded, settings | ({"head": place} if place else {}))
        for place in range(len(layers))
    ]


def _features(setup: RunSetup, layers: Sequence[nn.Linear], sample: _Sample) -> list[np.ndarray]:
    """Return the input of each layer for the sample, shape (N, D)."""
    run, rows = setup.run, setup.rows
    with shortcuts(run.context).without_gradients.use(setup.network):
        return warm_start.head_features(
            setup.network,
            layers,
            Rows(rows.train.select(sample.indices), rows.inputs.columns),
            rows.inputs.collate,
            batch_size=run.eval_batch_size,
            autocast=run.context.autocast,
            progress="fit the head",
        )


def init_head(run: Run, layers: Sequence[nn.Linear], heads: Sequence[FittedHead], source: str) -> HeadStart:
    """Copy the fitted heads to `layers`, unless the first explains too little of the labels.

    Args:
        source: origin of the heads, for the log.
    """
    explained, least = heads[0].explained, fit_settings(run).least_explained
    fit = run.data.task.explained(explained)
    start = HeadStart(round(explained, 4), explained >= least)
    modules, shifts = run.model.network.named_modules(), class_shifts(run)
    fresh = {m for name, module in modules if name in run.model.fresh for m in module.modules()}
    pretrained = fresh.isdisjoint(layers)
    if not start.fitted:
        weights = "the checkpoint's weights" if pretrained else "random weights"
        too_little = f", less than {least:g}" if explained > 0 else ""
        logger.info("the head starts from %s: one fitted to frozen features %s%s", weights, fit, too_little)
        return start
    place = ", in the place of the checkpoint's" if pretrained else ""
    logger.info("the head starts %s%s: it %s", source, place, fit)
    for layer, head in zip(layers, heads, strict=True):
        bias_C = head.bias_C
        if shifts is not None and layer is layers[0]:
            # The fit stands for the logits after the shift, which training compares with the labels.
            bias_C = bias_C - torch.tensor(shifts)
        set_layer(layer, head.weight_CD, bias_C)
    return start


def fit_settings(run: Run) -> warm_start.Fit:
    """Return the penalty of the fit, and how much it must explain to be taken."""
    train, default = run.recipe.train, warm_start.default_fit(run.recipe.effective_method)
    strength, least = train.head_inverse_strength, train.head_least_explained
    # The features below the last layer of such a head train, too.
    is_chosen = strength is None and run.recipe.model.head in ("default", "linear")
    return warm_start.Fit(
        default.inverse_strength if strength is None else strength,
        default.least_explained if least is None else least,
        default.stronger if is_chosen else (),
    )


def head_weights(run: Run) -> np.ndarray | None:
    """Return the weight of a row or word of each class in the fit, to match the loss in training, see `classes_of`.

    It is the class weight times how often `batching.sampling` draws the row. None: all rows weigh the same.
    """
    sampling, classes = run.recipe.batching.sampling, len(run.data.splits.labels)
    weights = None if run.data.task.weighs_positives else class_weights(run)
    if sampling == "none":
        return None if weights is None else np.asarray(weights)
    draws_C = draws_per_row(run.data.train_labels, sampling, classes)
    return draws_C * (1.0 if weights is None else np.asarray(weights))
