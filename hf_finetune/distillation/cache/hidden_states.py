"""A teacher's hidden states in the disk cache: as many of each row as it has tokens, memory-mapped.

They are stored in float16, which changes what a loss compares by less than a thousandth. The run that computes them
reads them from the cache, too, so that the next run trains the same.

Legend: N rows, n rows of a chunk, B rows of a batch, T tokens of the longest of them, t tokens of a chunk, K values of
a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hf_finetune.distillation.cache.chunks import ChunkCache, chunks_of
from hf_finetune.distillation.feature_matching.recorder import PROJECTIONS
from hf_finetune.distillation.losses.base import Features, RequiredFeatures
from hf_finetune.utils import disk_cache


@dataclass(frozen=True)
class TokenLayout:
    """The order of a token's features in the cache."""

    hidden: tuple[int, ...]
    """Layers whose hidden states are cached; 0: the embeddings."""
    attention: tuple[int, ...]
    """Layers whose queries, keys and values are cached, counted from 1."""
    width: int
    """Width of each of them."""

    @classmethod
    def of(cls, required: RequiredFeatures, width: int) -> TokenLayout:
        """Order the features of tokens by their layers."""
        return cls(tuple(sorted(required.hidden)), tuple(sorted(required.attention)), width)

    @property
    def values(self) -> int:
        """Values of a token, K."""
        return self.width * (len(self.hidden) + len(PROJECTIONS) * len(self.attention))

    def join(self, features: Features) -> torch.Tensor:
        """Concatenate the features of each token (B, T, K)."""
        parts = [features.hidden[layer] for layer in self.hidden]
        parts += [features.attention[layer][name] for layer in self.attention for name in PROJECTIONS]
        return torch.cat(parts, -1)

    def split(self, joined_BTK: torch.Tensor, mask_BT: torch.Tensor | None) -> Features:
        """Undo `join`."""
        parts = iter(joined_BTK.split(self.width, -1))
        hidden = {layer: next(parts) for layer in self.hidden}
        return Features(mask_BT, hidden, {layer: {n: next(parts) for n in PROJECTIONS} for layer in self.attention})


@dataclass(frozen=True)
class CachedTokens:
    """Hidden states of the tokens of N rows, in memory-mapped chunks of rows."""

    chunks: Sequence[np.ndarray]
    """Arrays (t, K), float16, row after row."""
    tokens_N: np.ndarray
    """Number of tokens of each row."""
    size: int
    """Rows of a chunk."""

    @cached_property
    def starts_N(self) -> np.ndarray:
        """Index of each row's first token within its chunk."""
        before_N = np.cumsum(self.tokens_N) - self.tokens_N
        return before_N - before_N[np.arange(len(self)) // self.size * self.size]

    def __len__(self) -> int:
        return len(self.tokens_N)

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return the hidden states of rows (B, T, K), float16, with zeros behind each row's tokens."""
        rows = np.asarray(rows)
        states_BTK = np.zeros((len(rows), int(self.tokens_N[rows].max()), self.chunks[0].shape[1]), dtype=np.float16)
        for states_TK, row in zip(states_BTK, rows, strict=True):
            start, tokens = self.starts_N[row], self.tokens_N[row]
            states_TK[:tokens] = self.chunks[row // self.size][start : start + tokens]
        return states_BTK


def cached_tokens(
    key: Mapping[str, Any],
    tokens_N: np.ndarray,
    compute: Callable[[np.ndarray], np.ndarray],
    *,
    values: int,
    size: int,
    budget_gb: float,
) -> CachedTokens:
    """Return the hidden states of rows, and compute and cache those that no earlier run has cached.

    Args:
        key: what the states depend on, as JSON values.
        tokens_N: number of tokens of each row.
        compute: `row numbers (n,) -> hidden states of their tokens (t, K), float16`, row after row.
        values: K.
        size: rows of a chunk, at most so many of which a killed run loses.
        budget_gb: gigabytes (10^9 bytes) that all caches may take on the disk.

    Raises:
        CacheUnavailable: there is no room, or a state is too large for float16.
    """
    chunks = chunks_of(len(tokens_N), size)

    def compute_finite(i: int) -> np.ndarray:
        states_tK = compute(chunks[i])
        if not np.isfinite(states_tK).all():
            raise disk_cache.CacheUnavailable(f"a hidden state is larger than {np.finfo(np.float16).max:.0f}")
        return states_tK

    cache = ChunkCache(
        {**key, "size": size},
        [(int(tokens_N[numbers].sum()), values) for numbers in chunks],
        np.dtype(np.float16),
        f"the teacher's hidden states of {len(tokens_N)} rows",
    )
    arrays, _ = cache.load(compute_finite, budget_gb=budget_gb)
    return CachedTokens(arrays, tokens_N, size)
