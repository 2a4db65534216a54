"""Fit the classification layer on the untrained network's features, before the first step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.data.duplicates import first_sources
from hf_finetune.data.inputs import Rows, TextInputs, columns_of, sample_rows
from hf_finetune.data.labels import UNLABELED
from hf_finetune.features.frozen_layers import TrainingRows
from hf_finetune.models.modules import classification_layers, set_layer
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.objective import class_shifts, class_weights, drawn_per_class
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.pipeline.update_rule import shortcuts
from hf_finetune.training import head_cache, warm_start
from hf_finetune.training.warm_start import FittedHead

logger = logging.getLogger("hf_finetune.run")


@dataclass(frozen=True)
class HeadStart:
    """What the head starts with, as result.json and recipe.json have it."""

    explained: float
    """See `FittedHead`."""
    fitted: bool
    """Whether the fitted head is the model's now."""


def fit_head(
    run: PreparedRun, network: PreTrainedModel, train_rows: Dataset, rows: TrainingRows, clock: Stopwatch
) -> HeadStart | None:
    """Fit the classification layer to the labeled rows, see `training.warm_start`, or find it fitted by an earlier run.

    Of a DeiT with two heads both are fitted to the labels: they are what the teacher predicts for most rows.

    Args:
        network: as it trains.
        train_rows: encoded.
        rows: the same training rows, as activations of the frozen layers where these are cached.

    Returns:
        See `begin_with`; None where no such layer can be fitted.
    """
    with clock.measure("head_warm_start_s"):
        sample, layers = _sample(run, train_rows), classification_layers(network)
        entries = _cache_entries(run, network, layers, sample, rows)
        heads = [head for entry in entries if (head := head_cache.read(entry)) is not None]
        if len(heads) == len(layers):
            return begin_with(run, layers, heads, "as an earlier run on this machine fitted it to the same rows")
        try:
            heads = [_fit(run, sample, features_ND) for features_ND in _features(run, network, layers, sample, rows)]
        except warm_start.NotOfRows:
            kind = network.config.model_type
            logger.info("the head is not fitted: a row's logits are made of its tokens' in this %s", kind)
            return None
        for entry, head in zip(entries, heads, strict=True):
            head_cache.write(entry, head, budget_gb=run.recipe.batching.cache_gb)
        return begin_with(run, layers, heads, "fitted")


@dataclass(frozen=True)
class _Sample:
    """The rows that a head is fitted to."""

    chosen: np.ndarray
    """Their places among the training rows, shape (N,)."""
    rows: Dataset
    """Encoded."""
    labels_N: np.ndarray
    first_N: np.ndarray
    """For each row the first of the same source."""
    weights_C: np.ndarray | None


def _sample(run: PreparedRun, train_rows: Dataset) -> _Sample:
    recipe, inputs = run.recipe, run.data.inputs
    labels_N = np.asarray(train_rows["label"][:])
    able = np.flatnonzero(labels_N != UNLABELED)
    drawn = sample_rows(inputs, train_rows, warm_start.MOST_ROWS, seed=recipe.train.seed, among=able)
    chosen = warm_start.with_every_class(drawn, labels_N)
    by_content = isinstance(inputs, TextInputs) or not recipe.data.augment_copies
    first_N = first_sources(run.data.splits.train.select(chosen), by_content=by_content)
    rows = train_rows.select(chosen)
    return _Sample(chosen, rows, np.asarray(rows["label"][:]), first_N, head_weights(run))


def _cache_entries(
    run: PreparedRun, network: PreTrainedModel, layers: Sequence[nn.Linear], sample: _Sample, rows: TrainingRows
) -> list[Path]:
    """Cache entries of the fitted heads, one for each layer."""
    inputs = run.data.inputs
    # Images are named by the data's fingerprint and their row.
    columns = ("row", *columns_of(inputs, labels=True))
    shown = [c for c in columns if c in sample.rows.column_names and c != "image"]
    settings = {
        "data": run.data.splits.fingerprint,
        "inputs": inputs.max_length if isinstance(inputs, TextInputs) else inputs.processor.to_json_string(),
        "autocast": str(run.context.autocast),
        "batch_size": run.recipe.train.per_device_eval_batch_size,
        "cached_layers": rows.layer if rows.why is None else 0,
        "inverse_strength": fit_settings(run).inverse_strength,
        "repeated": [(i, int(first)) for i, first in enumerate(sample.first_N) if i != first],
        **({} if sample.weights_C is None else {"class_weights": sample.weights_C.tolist()}),
    }
    encoded = sample.rows.select_columns(shown)
    return [
        head_cache.entry(network, layers, encoded, settings | ({"head": place} if place else {}))
        for place in range(len(layers))
    ]


def _features(
    run: PreparedRun, network: PreTrainedModel, layers: Sequence[nn.Linear], sample: _Sample, rows: TrainingRows
) -> list[np.ndarray]:
    """What each layer reads of the sample, shape (N, D)."""
    with shortcuts(run.context).without_gradients.use(network):
        return warm_start.head_features(
            network,
            layers,
            Rows(rows.train.select(sample.chosen), rows.inputs.columns),
            rows.inputs.collate,
            batch_size=run.recipe.train.per_device_eval_batch_size,
            autocast=run.context.autocast,
            progress="fit the head",
        )


def _fit(run: PreparedRun, sample: _Sample, features_ND: np.ndarray) -> FittedHead:
    return warm_start.fit_head(
        features_ND,
        sample.labels_N,
        len(run.data.splits.labels),
        inverse_strength=fit_settings(run).inverse_strength,
        weights_N=None if sample.weights_C is None else sample.weights_C[sample.labels_N],
        first_N=sample.first_N,
    )


def begin_with(run: PreparedRun, layers: Sequence[nn.Linear], heads: Sequence[FittedHead], source: str) -> HeadStart:
    """Put fitted heads in the place of `layers`, unless the first explains too little of the labels.

    Args:
        source: where they come from, for the log.
    """
    explained, least = heads[0].explained, fit_settings(run).least_explained
    start = HeadStart(round(explained, 4), explained >= least)
    modules, shifts = run.model.network.named_modules(), class_shifts(run)
    fresh = {m for name, module in modules if name in run.model.fresh for m in module.modules()}
    pretrained = fresh.isdisjoint(layers)
    if not start.fitted:
        logger.info(
            "the head starts from %s: a fitted one explains %.2f of the labels' entropy, less than %g",
            "the checkpoint's weights" if pretrained else "random weights",
            explained,
            least,
        )
        return start
    logger.info(
        "the head starts %s%s: that explains %.2f of the labels' entropy",
        source,
        ", in the place of the checkpoint's" if pretrained else "",
        explained,
    )
    for layer, head in zip(layers, heads, strict=True):
        bias_C = head.bias_C
        if shifts is not None and layer is layers[0]:
            # What was fitted is what training compares with the labels: the logits after they were shifted.
            bias_C = bias_C - torch.tensor(shifts)
        set_layer(layer, head.weight_CD, bias_C)
    return start


def fit_settings(run: PreparedRun) -> warm_start.Fit:
    """How the head is fitted, and when it is taken."""
    train, default = run.recipe.train, warm_start.default_fit(run.recipe.effective_method)
    strength, least = train.head_inverse_strength, train.head_least_explained
    return warm_start.Fit(
        default.inverse_strength if strength is None else strength,
        default.least_explained if least is None else least,
    )


def head_weights(run: PreparedRun) -> np.ndarray | None:
    """What a row of each class weighs when the head is fitted, shape (C,), so that it is fitted to what is trained on.

    That is how often `batching.sampling` draws it times its class weight. None: all the same.
    """
    weights = class_weights(run)
    if weights is None and run.recipe.batching.sampling == "none":
        return None
    times = drawn_per_class(run) / np.maximum(run.data.rows_per_class, 1)
    return times * (1.0 if weights is None else np.asarray(weights))
