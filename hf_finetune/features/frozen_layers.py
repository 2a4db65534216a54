"""Cache the activations of the frozen layers, for every epoch and for later runs.

Legend: N rows, T tokens, D width.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, concatenate_datasets
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from hf_finetune.data.inputs import Inputs, Rows
from hf_finetune.data.word_inputs import OF_WINDOWS, PLACES, word_places
from hf_finetune.evaluation.logits import Collate, autocast_to, batches_by_tokens, predict_logits, to_device
from hf_finetune.features.activation_cache import FORMAT, Activations, find_activations, store_activations
from hf_finetune.features.prefix import Batch, NoBoundary, Prefix, rows_of
from hf_finetune.models.freezing import frozen_layers
from hf_finetune.utils import environment, hashing
from hf_finetune.utils.console import Progress
from hf_finetune.utils.disk_cache import CacheUnavailable, entry_folder
from hf_finetune.utils.messages import counted

logger = logging.getLogger("hf_finetune.run")

# Tokens of a forward pass that fills the cache: enough to use all of the processor, few enough to fit into its caches.
TOKENS_PER_BATCH = 4096
# Config fields with these words in their names do not change activations in evaluation mode.
WITHOUT_EFFECT = ("drop", "label", "name", "architectures", "problem_type", "version", "dtype", "pool")


@dataclass(frozen=True)
class CachedInputs:
    """Inputs that are cached activations, with the methods of `data.inputs.Inputs` that training needs.

    The column `cached` has the first token of a row in the cache and the number of tokens, as a list, which
    `data.inputs.Rows` reads directly.
    """

    prefix: Prefix
    activations: Activations

    @property
    def columns(self) -> list[str]:
        """Columns that `collate` reads, those of words among them."""
        return ["cached", PLACES]

    def lengths(self, encoded: Dataset) -> np.ndarray | None:
        """Return the tokens of each text, shape (N,), for the same steps as without a cache. None for images."""
        return np.asarray(encoded["length"][:], dtype=np.int64) if "length" in encoded.column_names else None

    def collate(self, batch: dict[str, list]) -> Batch:
        """Return a batch of activations, see `Prefix.as_batch`."""
        tokens_TD = self.activations.tokens_TD
        rows = [tokens_TD[start : start + count] for start, count in batch["cached"]]
        return {**self.prefix.as_batch(rows), **word_places(batch, max(map(len, rows)), lengths=rows)}

    def rows(self, encoded: Dataset, place_N: np.ndarray) -> Dataset:
        """Return the cached rows of encoded rows, whose places in the cache are `place_N`."""
        positions = np.stack([self.activations.starts_N[place_N], self.activations.lengths_N[place_N]], axis=1)
        columns = {name: encoded[name][:] for name in ("label", "length", *OF_WINDOWS) if name in encoded.column_names}
        return Dataset.from_dict({"cached": positions.tolist(), **columns})


@dataclass(frozen=True)
class TrainingRows:
    """The rows that the trainer reads: cached activations, or encoded rows."""

    inputs: Inputs | CachedInputs
    train: Dataset
    validation: Dataset
    why_uncached: str | None = None
    """Why no activations are cached, if they are not."""
    layer: int = 0
    """Number of frozen layers at the bottom."""
    reused: bool = False
    build_s: float = 0.0

    @property
    def skips_all_layers(self) -> bool:
        """Whether the activations are those of the last layer, so that only the head runs."""
        return isinstance(self.inputs, CachedInputs) and self.inputs.prefix.has_all_layers

    @property
    def report(self) -> dict[str, bool | float | str | None]:
        """The section `cache` of result.json."""
        size = self.inputs.activations.size if isinstance(self.inputs, CachedInputs) else 0
        return {
            "used": isinstance(self.inputs, CachedInputs),
            "why": self.why_uncached,
            "mb": round(size / 1e6, 1),
            "build_s": round(self.build_s, 2),
            "reused": self.reused,
            "layer": self.layer,
        }

    def close(self) -> None:
        """Restore the model, which then takes ordinary batches only."""
        if isinstance(self.inputs, CachedInputs):
            self.inputs.prefix.close()

    def validation_logits(self, model: PreTrainedModel, *, batch_size: int) -> np.ndarray | None:
        """Return the float32 logits (N, C) of the validation rows, after `close`: those of a forward pass up to
        rounding. None: no float32 activations are cached."""
        if not isinstance(self.inputs, CachedInputs) or self.inputs.activations.tokens_TD.dtype != torch.float32:
            return None
        rows, lengths_N = Rows(self.validation, self.inputs.columns), self.inputs.lengths(self.validation)
        self.inputs.prefix.open()
        try:
            return predict_logits(model, rows, self.inputs.collate, batch_size=batch_size, lengths=lengths_N)
        finally:
            self.close()


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
    """Cache the activations of the frozen layers for all rows, or find them in the disk cache.

    A row that is there several times is cached once. Neither the order of the rows nor their split counts: the folds of
    a run share one cache with what trains on all of its rows. The main process fills the cache while the others wait.
    Without a cache, which is logged, training gives the same weights up to rounding.

    Args:
        model: on its device, with frozen parameters and any adapter.
        train, validation: encoded rows.
        fingerprint: identifies the rows.
        autocast: as in training. The cache is in bfloat16 if this is, else in float32.
        budget_gb: budget of the disk cache in gigabytes (10^9 bytes).
        why_not: a reason to cache nothing. None: cache if possible.
    """
    uncached = TrainingRows(inputs, train, validation, layer=frozen_layers(model))
    if uncached.layer == 0 or why_not is not None:
        return replace(uncached, why_uncached="no layer is frozen" if uncached.layer == 0 else why_not, layer=0)
    started = time.perf_counter()
    columns = [c for c in inputs.columns if c in train.column_names]
    rows = concatenate_datasets([train.select_columns(columns), validation.select_columns(columns)])
    lengths = [each for each in map(inputs.lengths, (train, validation)) if each is not None]
    keys = inputs.row_keys(rows)
    distinct, first_n, place_N = np.unique(keys, return_index=True, return_inverse=True)
    rows, lengths_N = rows.select(first_n), np.concatenate(lengths)[first_n] if lengths else None
    try:
        prefix = Prefix(model, uncached.layer, _sample(model, inputs, rows, lengths_N))
    except NoBoundary as reason:
        why = f"{model.config.model_type} cannot start from the outputs of its frozen layers: {reason}"
        return _without_cache(uncached, why)
    try:
        source = _Source(model, inputs, rows, lengths_N, prefix, autocast)
        activations, reused = source.cached([fingerprint, *distinct.tolist()], budget_gb)
    except CacheUnavailable as reason:
        prefix.close()
        return _without_cache(uncached, str(reason))
    cached = CachedInputs(prefix, activations)
    return TrainingRows(
        cached,
        cached.rows(train, place_N[: len(train)]),
        cached.rows(validation, place_N[len(train) :]),
        layer=uncached.layer,
        reused=reused,
        build_s=time.perf_counter() - started,
    )


def _without_cache(uncached: TrainingRows, reason: str) -> TrainingRows:
    logger.info("the frozen layers run in every epoch, not once, which is slower and trains the same: %s", reason)
    return replace(uncached, why_uncached=reason)


@dataclass(frozen=True)
class _Source:
    """Rows, and the frozen layers that compute their activations."""

    model: PreTrainedModel
    inputs: Inputs
    rows: Dataset
    lengths_N: np.ndarray | None
    prefix: Prefix
    autocast: torch.dtype | None

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the cache."""
        return torch.bfloat16 if self.autocast == torch.bfloat16 else torch.float32

    def cached(self, identity: Sequence[str], budget_gb: float) -> tuple[Activations, bool]:
        """Return the cached activations, and whether an earlier run cached them.

        Args:
            identity: the fingerprint of the data, and the key of each row.

        Raises:
            CacheUnavailable: they cannot be cached.
        """
        folder, reused, error = entry_folder("activations", self.key(identity)), True, None
        if PartialState().is_main_process and find_activations(folder) is None:
            reused = False
            try:
                self.fill(folder, budget_gb)
            except CacheUnavailable as reason:
                error = str(reason)
        error, reused = broadcast_object_list([error, reused])
        activations = None if error else find_activations(folder)
        if activations is None:
            raise CacheUnavailable(error or f"{folder} was removed")
        if reused:
            logger.info(
                "activations below layer %d of %s: found in %s", self.prefix.n, counted(len(self.rows), "row"), folder
            )
        return activations, reused

    def key(self, identity: Sequence[str]) -> dict[str, object]:
        """Return everything that the activations depend on."""
        config = self.model.config
        return {
            "format": FORMAT,
            "weights": hashing.of_tensors(self.prefix.weights),
            "config": {k: v for k, v in config.to_dict().items() if not any(w in k for w in WITHOUT_EFFECT)},
            "attention": config._attn_implementation,
            "rows": hashing.of_json(identity),
            "layer": self.prefix.n,
            # 1 if the last layer computes only the first token, which is no use to heads that read others.
            "tokens": self.prefix.tokens,
            "dtype": str(self.dtype),
            "autocast": str(self.autocast),
            "float32": torch.get_float32_matmul_precision(),
            "device": self.model.device.type,
            "versions": {name: environment.versions()[name] for name in ("torch", "transformers")},
        }

    def fill(self, folder: Path, budget_gb: float) -> None:
        """Compute the activations of all rows, in batches of similar length.

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
        with Progress(label, total=len(self.rows)) as bar:
            for indices, batch in zip(batches, loader, strict=True):
                batch = to_device(batch, self.model.device)
                with autocast_to(self.autocast, self.model.device):
                    hidden_BTD = self.prefix.read(self.model, batch)
                yield indices, [row.to("cpu", self.dtype) for row in rows_of(hidden_BTD, batch)]
                bar.update(len(indices))


def _sample(model: PreTrainedModel, inputs: Inputs, rows: Dataset, lengths_N: np.ndarray | None) -> Batch:
    """Return a batch of the shortest row, the median one and the longest."""
    chosen = [0] if lengths_N is None else np.argsort(lengths_N, kind="stable")[[0, len(rows) // 2, -1]].tolist()
    return to_device(inputs.collate(Rows(rows, rows.column_names).__getitems__(chosen)), model.device)
