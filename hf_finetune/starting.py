"""Between the encoded rows and the first step: the kernels that compute, and the head's first weights."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch import nn

from hf_finetune.data.inputs import Rows, TextInputs, columns_of, with_labels
from hf_finetune.features.frozen import TrainingRows
from hf_finetune.models.dropout import fast_dropout
from hf_finetune.models.heads import classification_layer, set_head
from hf_finetune.preparation import Prepared
from hf_finetune.training import head_store, probe, warm_start

logger = logging.getLogger("hf_finetune.run")


def choose_kernels(prepared: Prepared, model: nn.Module, train_rows: Dataset, steps: int) -> probe.Choice:
    """What the run computes with; the main process decides for all."""
    recipe, inputs = prepared.recipe, prepared.inputs
    decided: list[Any] = [None]
    if PartialState().is_main_process:
        # Rows of the mean length, as many as a forward pass takes.
        lengths, size = inputs.lengths(train_rows), min(prepared.micro_batch[0], len(train_rows))
        chosen = np.arange(size)
        if lengths is not None:
            order = np.argsort(lengths, kind="stable")
            middle = int(np.searchsorted(lengths[order], lengths.mean()))
            start = min(max(0, middle - size // 2), len(order) - size)
            chosen = order[start : start + size]
        rows = Rows(train_rows, columns_of(inputs, labels=True)).__getitems__(chosen.tolist())
        batch = {name: tensor.to(prepared.device) for name, tensor in with_labels(inputs.collate, rows).items()}
        decided[0] = probe.choose(
            model,
            batch,
            default=prepared.kernels,
            free=prepared.free_kernels,
            planned_steps=steps,
            method=recipe.trained,
            around=fast_dropout if recipe.model.fast_dropout else nullcontext,
            # Rows end to end go through other kernels than these.
            probe=recipe.precision.probe and not (isinstance(inputs, TextInputs) and prepared.goes_unpadded()),
        )
    return broadcast_object_list(decided)[0]


def warm_start_head(prepared: Prepared, model: nn.Module, train_rows: Dataset, rows: TrainingRows) -> None:
    """Fit the classification layer on the untrained network's features, see `training.warm_start`.

    Args:
        rows: the same training rows, as activations of the frozen layers where these are cached.
    """
    recipe, inputs = prepared.recipe, prepared.inputs
    rng = np.random.default_rng(recipe.train.seed)
    chosen = np.sort(rng.permutation(len(train_rows))[: warm_start.MOST_ROWS])
    lengths = inputs.lengths(train_rows)
    if lengths is not None:
        chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
    sample = train_rows.select(chosen)
    labels, batch_size = np.asarray(sample["label"][:]), recipe.train.per_device_eval_batch_size
    # Pictures are named by the data's fingerprint and their row.
    shown = [c for c in ("row", *columns_of(inputs, labels=True)) if c in sample.column_names and c != "image"]
    key = head_store.key_of(
        model,
        sample.select_columns(shown),
        {
            "data": prepared.splits.fingerprint,
            "inputs": inputs.max_length if isinstance(inputs, TextInputs) else inputs.processor.to_json_string(),
            "autocast": str(prepared.autocast),
            "batch_size": batch_size,
            "cached_layers": rows.layer if rows.why is None else 0,
        },
    )
    head = head_store.read(key)
    if head is None:
        features = warm_start.head_features(
            model,
            classification_layer(model),
            Rows(rows.train.select(chosen), columns_of(rows.inputs, labels=False)),
            rows.inputs.collate,
            batch_size=batch_size,
            autocast=prepared.autocast,
            progress="fit the head",
        )
        head = warm_start.fit_head(features, labels, len(prepared.splits.labels))
        head_store.write(key, *head)
    else:
        logger.info("the head starts as an earlier run on this machine fitted it to the same rows")
    set_head(model, *head)
