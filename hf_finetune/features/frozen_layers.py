"""Training rows as cached activations of the frozen layers, used by every epoch and by later runs.

Legend: N rows, T tokens, D width.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, concatenate_datasets
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel

from hf_finetune.data.inputs import Inputs, Rows
from hf_finetune.evaluation.logits import Collate, autocast_to, batches_by_tokens, to_device
from hf_finetune.features.activation_cache import FORMAT, Activations, find_activations, store_activations
from hf_finetune.features.prefix import Batch, NoBoundary, Prefix, rows_of
from hf_finetune.models.freezing import frozen_layers
from hf_finetune.utils import environment, hashing
from hf_finetune.utils.disk_cache import CacheUnavailable, entry_folder

logger = logging.getLogger("hf_finetune.run")

# Tokens of one forward pass while the cache is filled: enough to fill the processor, few enough to stay in its caches.
TOKENS_PER_BATCH = 4096
# Nothing of a config that bears these in its name changes an activation in evaluation mode.
WITHOUT_EFFECT = ("drop", "label", "name", "architectures", "problem_type", "version", "dtype", "pool")


@dataclass(frozen=True)
class CachedInputs:
    """Cached rows in the place of texts or images, see `data.inputs`.

    Their column `cached` says where a row's tokens lie in the cache: the first one, and how many. A list, because
    `data.inputs.Rows` reads those without a detour.
    """

    prefix: Prefix
    store: Activations

    @property
    def columns(self) -> list[str]:
        """Columns that `collate` reads."""
        return ["cached"]

    def lengths(self, encoded: Dataset) -> np.ndarray | None:
        """Tokens of each text, shape (N,): it trains in the same step as without a cache. None for images."""
        return np.asarray(encoded["length"][:], dtype=np.int64) if "length" in encoded.column_names else None

    def collate(self, batch: dict[str, list]) -> Batch:
        """See `Prefix.as_batch`."""
        tokens_TD = self.store.tokens_TD
        return self.prefix.as_batch([tokens_TD[start : start + count] for start, count in batch["cached"]])

    def rows(self, encoded: Dataset, first: int) -> Dataset:
        """As many cached rows as there are encoded ones, from the `first` on, with what is known of these."""
        here = slice(first, first + len(encoded))
        places = np.stack([self.store.starts_N[here], self.store.lengths_N[here]], axis=1)
        known = {name: encoded[name][:] for name in ("label", "length") if name in encoded.column_names}
        return Dataset.from_dict({"cached": places.tolist(), **known})


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
    def report(self) -> dict[str, bool | float | str | None]:
        """The section `cache` of result.json."""
        size = self.inputs.store.size if isinstance(self.inputs, CachedInputs) else 0
        return {
            "used": isinstance(self.inputs, CachedInputs),
            "why": self.why,
            "mb": round(size / 1e6, 1),
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

    The main process fills the cache while the others wait. Where it cannot be used, the run goes on without, logs why,
    and gives the same weights up to rounding.

    Args:
        model: with its frozen layers' parameters frozen, on its device; an adapter is on it already.
        train, validation: encoded rows.
        fingerprint: identifies the rows.
        autocast: as in training. The cache is in bfloat16 when that is, else in float32.
        budget_gb: gigabytes (10^9 bytes) that the disk cache may take.
        why_not: to cache nothing, the reason; None: wherever it can be used.
    """
    plain = TrainingRows(inputs, train, validation, layer=frozen_layers(model))
    if plain.layer == 0 or why_not is not None:
        return replace(plain, why="no layer is frozen" if plain.layer == 0 else why_not, layer=0)
    started = time.perf_counter()
    columns = [c for c in inputs.columns if c in train.column_names]
    rows = concatenate_datasets([train.select_columns(columns), validation.select_columns(columns)])
    lengths = [each for each in map(inputs.lengths, (train, validation)) if each is not None]
    lengths_N = np.concatenate(lengths) if lengths else None
    try:
        prefix = Prefix(model, plain.layer, _sample(model, inputs, rows, lengths_N))
    except NoBoundary as reason:
        return _without(plain, f"{model.config.model_type} cannot be entered above its frozen layers: {reason}")
    source = _Source(model, inputs, rows, lengths_N, prefix, autocast)
    folder = entry_folder("activations", source.key(fingerprint))
    why: str | None = None
    reused = True
    if PartialState().is_main_process and find_activations(folder) is None:
        reused = False
        try:
            source.fill(folder, budget_gb)
        except CacheUnavailable as reason:
            why = str(reason)
    why, reused = broadcast_object_list([why, reused])
    store = None if why else find_activations(folder)
    if store is None:
        prefix.close()
        return _without(plain, why or f"{folder} went away")
    if reused:
        logger.info("activations below layer %d of %d rows: found in %s", plain.layer, len(rows), folder)
    cached = CachedInputs(prefix, store)
    cached_train, cached_validation = cached.rows(train, 0), cached.rows(validation, len(train))
    seconds = time.perf_counter() - started
    return TrainingRows(cached, cached_train, cached_validation, None, plain.layer, reused, seconds)


def _without(plain: TrainingRows, why: str) -> TrainingRows:
    logger.info("training without a cache of the frozen layers' activations: %s", why)
    return replace(plain, why=why)


@dataclass(frozen=True)
class _Source:
    """Rows, and the frozen layers that make activations of them."""

    model: PreTrainedModel
    inputs: Inputs
    rows: Dataset
    lengths_N: np.ndarray | None
    """Tokens of each text."""
    prefix: Prefix
    autocast: torch.dtype | None

    @property
    def dtype(self) -> torch.dtype:
        """Of the cached activations."""
        return torch.bfloat16 if self.autocast == torch.bfloat16 else torch.float32

    def key(self, fingerprint: str) -> dict[str, object]:
        """All that the activations depend on."""
        config = self.model.config
        return {
            "format": FORMAT,
            "weights": hashing.of_tensors(self.prefix.weights),
            "config": {k: v for k, v in config.to_dict().items() if not any(w in k for w in WITHOUT_EFFECT)},
            "attention": config._attn_implementation,
            "rows": fingerprint,
            "inputs": self.inputs.cache_key(self.rows),
            "layer": self.prefix.n,
            # One where the last layer is computed for the first token alone: of no use to a head that reads others.
            "tokens": self.prefix.tokens,
            "dtype": str(self.dtype),
            "autocast": str(self.autocast),
            "float32": torch.get_float32_matmul_precision(),
            "device": self.model.device.type,
            "versions": {name: environment.versions()[name] for name in ("torch", "transformers")},
        }

    def fill(self, folder: Path, budget_gb: float) -> None:
        """Compute the activations of all rows, batches of like length one after another.

        Raises:
            CacheUnavailable: see `activation_cache.store_activations`.
        """
        rows, tokens = len(self.rows), self.prefix.tokens
        lengths_N = np.full(rows, tokens) if self.lengths_N is None else self.lengths_N
        store_activations(
            folder,
            self._chunks(lengths_N),
            rows=rows,
            tokens=int(lengths_N.sum()) if tokens is None else tokens * rows,
            width=self.prefix.width,
            dtype=self.dtype,
            budget_gb=budget_gb,
        )

    def _chunks(self, lengths_N: np.ndarray) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        batches = batches_by_tokens(np.argsort(lengths_N, kind="stable"), lengths_N, TOKENS_PER_BATCH)
        collate: Collate = self.inputs.collate
        loader = DataLoader(Rows(self.rows, self.rows.column_names), batch_sampler=batches, collate_fn=collate)
        label = "activations of the frozen layers"
        with tqdm(total=len(self.rows), desc=label, unit="row", leave=False, disable=None) as bar:
            for indices, batch in zip(batches, loader, strict=True):
                batch = to_device(batch, self.model.device)
                with autocast_to(self.autocast, self.model.device):
                    hidden_BTD = self.prefix.read(self.model, batch)
                yield indices, [row.to("cpu", self.dtype) for row in rows_of(hidden_BTD, batch)]
                bar.update(len(indices))


def _sample(model: PreTrainedModel, inputs: Inputs, rows: Dataset, lengths_N: np.ndarray | None) -> Batch:
    """The shortest row, the longest, and one between them."""
    chosen = [0] if lengths_N is None else np.argsort(lengths_N, kind="stable")[[0, len(rows) // 2, -1]].tolist()
    return to_device(inputs.collate(Rows(rows, rows.column_names).__getitems__(chosen)), model.device)
