"""A teacher's states of tokens in the disk cache: of every row as many as it has tokens, read where they lie.

In float16, half the size: what a loss compares moves by less than a thousandth of itself. A run that computes the
states uses them as they are cached, so that the next one trains the same.

Legend: N rows, n rows of a chunk, B rows of a batch, T tokens of the longest of them, t tokens of a chunk, K numbers of
a token, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hf_finetune.distillation.cache.chunks import cached_chunks, chunks_of
from hf_finetune.distillation.features.recorder import PROJECTIONS
from hf_finetune.distillation.losses.base import Features, RequiredFeatures
from hf_finetune.utils import disk_cache


@dataclass(frozen=True)
class TokenLayout:
    """What of a token stands side by side."""

    hidden: tuple[int, ...]
    """The layers after which its state, 0 the embeddings."""
    attention: tuple[int, ...]
    """The layers, counted from 1, whose query, key and value."""
    width: int
    """D, of each of them."""

    @classmethod
    def of(cls, required: RequiredFeatures, width: int) -> TokenLayout:
        """Lay out the features of tokens, by their layers."""
        return cls(tuple(sorted(required.hidden)), tuple(sorted(required.attention)), width)

    @property
    def numbers(self) -> int:
        """K."""
        return self.width * (len(self.hidden) + len(PROJECTIONS) * len(self.attention))

    def join(self, features: Features) -> torch.Tensor:
        """Put the features of each token side by side (B, T, K)."""
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
    """States of the tokens of N rows, in chunks that are memory-mapped."""

    chunks: Sequence[np.ndarray]
    """Shape (t, K), float16, row after row."""
    tokens_N: np.ndarray
    """Of each row."""
    size: int
    """Rows of a chunk."""

    @cached_property
    def starts_N(self) -> np.ndarray:
        """Of each row, its first token within its chunk."""
        before_N = np.cumsum(self.tokens_N) - self.tokens_N
        return before_N - before_N[np.arange(len(self)) // self.size * self.size]

    def __len__(self) -> int:
        return len(self.tokens_N)

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return the states (B, T, K), float16: each row's tokens, and zeros behind them."""
        rows = np.asarray(rows)
        states_BTK = np.zeros((len(rows), int(self.tokens_N[rows].max()), self.chunks[0].shape[1]), dtype=np.float16)
        for place, row in enumerate(rows):
            start, tokens = self.starts_N[row], self.tokens_N[row]
            states_BTK[place, :tokens] = self.chunks[row // self.size][start : start + tokens]
        return states_BTK


def cached_tokens(
    key: Mapping[str, Any],
    tokens_N: np.ndarray,
    compute: Callable[[np.ndarray], np.ndarray],
    *,
    numbers: int,
    size: int,
    budget_gb: float,
) -> CachedTokens:
    """Return the states where an earlier run left them, else computed and cached.

    Args:
        key: what the states depend on, as JSON has it.
        tokens_N: of each row.
        compute: `numbers of rows (n,) -> states of their tokens (t, K), float16`, row after row.
        numbers: K.
        size: rows of a chunk; what a killed run may lose.
        budget_gb: gigabytes (10^9 bytes) that all caches may take on the disk.

    Raises:
        CacheUnavailable: there is no room for them, or float16 cannot hold one.
    """
    chunks = chunks_of(len(tokens_N), size)
    shapes = [(int(tokens_N[row_numbers].sum()), numbers) for row_numbers in chunks]

    def compute_finite(i: int) -> np.ndarray:
        states_tK = compute(chunks[i])
        if not np.isfinite(states_tK).all():
            raise disk_cache.CacheUnavailable(f"a state is larger than {np.finfo(np.float16).max:.0f}")
        return states_tK

    name, half = f"the teacher's states of the tokens of {len(tokens_N)} rows", np.dtype(np.float16)
    arrays, _ = cached_chunks({**key, "size": size}, shapes, half, compute_finite, name=name, budget_gb=budget_gb)
    return CachedTokens(arrays, tokens_N, size)
