"""Training rows as activations of the frozen layers: computed once, kept on disk, used by every epoch and later runs.

Legend: N rows, T tokens, D width.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, concatenate_datasets
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel

from hf_finetune.data.inputs import ImageInputs, Inputs, Rows
from hf_finetune.evaluation.logits import cast
from hf_finetune.features.activation_cache import FORMAT, Activations, find_activations, store_activations
from hf_finetune.features.prefix import Batch, NoBoundary, Prefix, rows_of
from hf_finetune.models.freezing import frozen_layers
from hf_finetune.utils import environment, hashing
from hf_finetune.utils.disk_cache import NoStore, folder_of

logger = logging.getLogger("hf_finetune.run")

# Tokens of one forward pass while a store is built: enough to fill the processor, few enough to stay in its caches.
TOKENS_PER_BATCH = 4096
# Nothing of a config that bears these in its name changes an activation in evaluation mode.
WITHOUT_EFFECT = ("drop", "label", "name", "architectures", "problem_type", "version", "dtype", "pool")


@dataclass(frozen=True)
class CachedInputs:
    """Rows of a store in the place of texts or pictures, see `data.inputs`.

    Their column `cached` says where a row's tokens lie in the store: the first one, and how many. A list, because
    `data.inputs.Rows` reads those without a detour.
    """

    prefix: Prefix
    store: Activations

    @property
    def columns(self) -> list[str]:
        """Columns that `collate` reads."""
        return ["cached"]

    def lengths(self, encoded: Dataset) -> np.ndarray | None:
        """Tokens of each text, shape (N,), so that it trains in the step in which it would without a cache; else None."""
        return np.asarray(encoded["length"][:], dtype=np.int64) if "length" in encoded.column_names else None

    def collate(self, batch: dict[str, list]) -> Batch:
        """See `Prefix.as_batch`."""
        tokens_TD = self.store.tokens_TD
        return self.prefix.as_batch([tokens_TD[start : start + count] for start, count in batch["cached"]])


@dataclass(frozen=True)
class TrainingRows:
    """What the trainer reads: activations of the frozen layers where they are cached, else the rows as they came."""

    inputs: Inputs | CachedInputs
    train: Dataset
    validation: Dataset
    why: str | None = None
    """Why no activations are cached; None when they are."""
    layer: int = 0
    """How many layers are frozen, from the bottom up."""
    reused: bool = False
    build_s: float = 0.0

    @property
    def report(self) -> dict[str, Any]:
        """What result.json says of the cache."""
        used = isinstance(self.inputs, CachedInputs)
        return {
            "used": used,
            "why": self.why,
            "mb": round(self.inputs.store.size / 1e6, 1) if used else 0.0,
            "build_s": round(self.build_s, 2),
            "reused": self.reused,
            "layer": self.layer,
        }

    def close(self) -> None:
        """Let the model take ordinary batches only."""
        if isinstance(self.inputs, CachedInputs):
            self.inputs.prefix.close()


def cache_frozen_layers(
    model: PreTrainedModel,
    inputs: Inputs,
    train: Dataset,
    validation: Dataset,
    *,
    fingerprint: str,
    autocast: torch.dtype | None,
    budget_gb: float,
    why_not: str | None = None,
) -> TrainingRows:
    """Compute what the frozen layers give for all rows, or find it where an earlier run left it.

    The main process builds the store while the others wait. Where it cannot be used, the run goes on without, says why,
    and gives the same weights up to rounding.

    Args:
        model: with its frozen layers' parameters frozen, on its device; an adapter is on it already.
        train, validation: encoded rows.
        fingerprint: identifies the rows.
        autocast: as in training. The store is in bfloat16 when that is, else in float32.
        budget_gb: gigabytes (10^9 bytes) that all stores may take on the disk.
        why_not: to cache nothing, the reason; None: wherever it can be used.
    """
    plain = TrainingRows(inputs, train, validation)
    layer = frozen_layers(model)
    if layer == 0 or why_not is not None:
        return replace(plain, why="no layer is frozen" if layer == 0 else why_not)
    started = time.perf_counter()
    columns = [c for c in inputs.columns if c in train.column_names]
    rows = concatenate_datasets([train.select_columns(columns), validation.select_columns(columns)])
    lengths_N = _lengths(inputs, train, validation)
    try:
        prefix = Prefix(model, layer, _sample(model, inputs, rows, lengths_N))
    except NoBoundary as reason:
        return _without(plain, layer, f"{model.config.model_type} cannot be entered above its frozen layers: {reason}")
    dtype = torch.bfloat16 if autocast == torch.bfloat16 else torch.float32
    folder = folder_of(
        "activations",
        {
            "format": FORMAT,
            "weights": hashing.of_tensors(prefix.weights),
            "config": {k: v for k, v in model.config.to_dict().items() if not any(w in k for w in WITHOUT_EFFECT)},
            "attention": model.config._attn_implementation,
            "rows": fingerprint,
            "inputs": _identity(inputs, rows),
            "layer": layer,
            # One where the last layer is computed for the first token alone: of no use to a head that reads others.
            "tokens": prefix.tokens,
            "dtype": str(dtype),
            "autocast": str(autocast),
            "float32": torch.get_float32_matmul_precision(),
            "device": model.device.type,
            "versions": {name: environment.versions()[name] for name in ("torch", "transformers")},
        },
    )
    why, reused = None, True
    if PartialState().is_main_process and find_activations(folder) is None:
        order_N, reused = np.full(len(rows), prefix.tokens) if lengths_N is None else lengths_N, False
        try:
            store_activations(
                folder,
                _chunks(prefix, model, inputs, rows, order_N, dtype, autocast),
                rows=len(rows),
                tokens=int(order_N.sum()) if prefix.tokens is None else prefix.tokens * len(rows),
                width=prefix.width,
                dtype=dtype,
                budget_gb=budget_gb,
            )
        except NoStore as reason:
            why = str(reason)
    why, reused = broadcast_object_list([why, reused])
    store = None if why else find_activations(folder)
    if store is None:
        prefix.close()
        return _without(plain, layer, why or f"{folder} went away")
    if reused:
        logger.info("activations below layer %d of %d rows: found in %s", layer, len(rows), folder)
    return TrainingRows(
        CachedInputs(prefix, store),
        _cached_rows(train, store, 0),
        _cached_rows(validation, store, len(train)),
        layer=layer,
        reused=reused,
        build_s=time.perf_counter() - started,
    )


def _without(plain: TrainingRows, layer: int, why: str) -> TrainingRows:
    logger.info("training without a cache of the frozen layers' activations: %s", why)
    return replace(plain, why=why, layer=layer)


def _chunks(
    prefix: Prefix,
    model: PreTrainedModel,
    inputs: Inputs,
    rows: Dataset,
    lengths_N: np.ndarray,
    dtype: torch.dtype,
    autocast: torch.dtype | None,
) -> Iterator[tuple[np.ndarray, list[torch.Tensor]]]:
    """Activations of all rows, batches of like length one after another."""
    order = np.argsort(lengths_N, kind="stable")
    # No batch is longer in tokens than TOKENS_PER_BATCH, its longest row counted for all, unless it is one row.
    batches, begin = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - begin) * lengths_N[order[end]] > TOKENS_PER_BATCH:
            batches.append(order[begin:end])
            begin = end
    loader = DataLoader(
        Rows(rows, rows.column_names), batch_sampler=[b.tolist() for b in batches], collate_fn=inputs.collate
    )
    with tqdm(total=len(order), desc="activations of the frozen layers", unit="row", leave=False, disable=None) as bar:
        for indices, batch in zip(batches, loader, strict=True):
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            with cast(model.device, autocast):
                hidden_BTD = prefix.read(model, batch)
            yield indices, [row.to("cpu", dtype) for row in rows_of(hidden_BTD, batch)]
            bar.update(len(indices))


def _lengths(inputs: Inputs, *parts: Dataset) -> np.ndarray | None:
    found = [inputs.lengths(part) for part in parts]
    return None if found[0] is None else np.concatenate(found)


def _sample(model: PreTrainedModel, inputs: Inputs, rows: Dataset, lengths_N: np.ndarray | None) -> Batch:
    """The shortest row, the longest, and one between them."""
    chosen = [0] if lengths_N is None else np.argsort(lengths_N, kind="stable")[[0, len(rows) // 2, -1]].tolist()
    batch = inputs.collate(Rows(rows, rows.column_names).__getitems__(chosen))
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def _identity(inputs: Inputs, rows: Dataset) -> str:
    """What the model is given for the rows: the texts' tokens, or how pictures become tensors."""
    if isinstance(inputs, ImageInputs):
        return f"{inputs.processor.to_json_string()} {inputs.decode_once}"
    return hashing.of_columns(rows)


def _cached_rows(encoded: Dataset, store: Activations, first: int) -> Dataset:
    """As many rows of the store as there are encoded ones, from the `first` on, with what is known of these."""
    rows = slice(first, first + len(encoded))
    places = np.stack([store.starts_N[rows], store.lengths_N[rows]], axis=1)
    kept = {name: encoded[name][:] for name in ("label", "length") if name in encoded.column_names}
    return Dataset.from_dict({"cached": places.tolist(), **kept})
