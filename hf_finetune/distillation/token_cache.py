"""States of a teacher's tokens in the store of its answers: of every row as many as it has tokens, read where they lie.

In float16, half the size: what a loss compares moves by less than a thousandth of itself. A run that computes the states uses
them as they are kept, so that the next one trains the same.

Legend: N rows, n rows of a chunk, B rows that are asked for, T tokens of the longest of them, t tokens of a chunk, K numbers of
a token, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hf_finetune.distillation.features import PROJECTIONS, Features
from hf_finetune.distillation.logit_cache import FORMAT, found_or_made
from hf_finetune.utils import disk_cache


@dataclass(frozen=True)
class Layout:
    """What of a token stands side by side."""

    hidden: tuple[int, ...]
    """The layers after which its state, 0 the embeddings."""
    attention: tuple[int, ...]
    """The layers, counted from 1, whose query, key and value."""
    width: int
    """D, of each of them."""

    @property
    def numbers(self) -> int:
        """K."""
        return self.width * (len(self.hidden) + len(PROJECTIONS) * len(self.attention))

    def flat(self, states: Features) -> torch.Tensor:
        """Shape (B, T, K)."""
        parts = [states.hidden[layer] for layer in self.hidden]
        parts += [states.attention[layer][name] for layer in self.attention for name in PROJECTIONS]
        return torch.cat(parts, -1)

    def states(self, flat_BTK: torch.Tensor, mask_BT: torch.Tensor | None) -> Features:
        """What `flat` was made of."""
        parts = iter(flat_BTK.split(self.width, -1))
        hidden = {layer: next(parts) for layer in self.hidden}
        return Features(mask_BT, hidden, {layer: {n: next(parts) for n in PROJECTIONS} for layer in self.attention})


@dataclass(frozen=True)
class KeptTokens:
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
        ends_N = np.cumsum(self.tokens_N)
        before_N = ends_N - self.tokens_N
        return before_N - before_N[np.arange(len(self)) // self.size * self.size]

    def __len__(self) -> int:
        return len(self.tokens_N)

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Shape (B, T, K), float16: each row's tokens, and zeros behind them."""
        rows = np.asarray(rows)
        found_BTK = np.zeros((len(rows), int(self.tokens_N[rows].max()), self.chunks[0].shape[1]), dtype=np.float16)
        for place, row in enumerate(rows):
            start, tokens = self.starts_N[row], self.tokens_N[row]
            found_BTK[place, :tokens] = self.chunks[row // self.size][start : start + tokens]
        return found_BTK


def keep_tokens(
    parts: Mapping[str, Any],
    tokens_N: np.ndarray,
    states: Callable[[np.ndarray], np.ndarray],
    *,
    numbers: int,
    size: int,
    budget_gb: float,
) -> tuple[KeptTokens, bool]:
    """The states where an earlier run left them, else computed chunk by chunk and kept, each chunk as soon as it is there.

    Args:
        parts: what the states depend on, as JSON has it.
        tokens_N: of each row.
        states: `places of rows (n,) -> states of their tokens (t, K), float16`, row after row.
        numbers: K.
        size: rows of a chunk; what a killed run may lose.
        budget_gb: gigabytes (10^9 bytes) that all stores may take on the disk.

    Returns:
        The states, and whether all were found.

    Raises:
        NoStore: there is no room for them, or float16 cannot hold one.
    """
    folder = disk_cache.folder_of("teacher", {"format": FORMAT, "size": size, **parts})
    places = [np.arange(start, min(start + size, len(tokens_N))) for start in range(0, len(tokens_N), size)]

    def make(chunk: int) -> np.ndarray:
        halves = states(places[chunk])
        if not np.isfinite(halves).all():
            raise disk_cache.NoStore(f"a state is larger than {np.finfo(np.float16).max:.0f}")
        return halves

    chunks, there = found_or_made(
        folder,
        [int(tokens_N[some].sum()) for some in places],
        np.zeros((1, numbers), dtype=np.float16),
        make,
        budget_gb=budget_gb,
        about={"rows": len(tokens_N), "numbers": numbers},
    )
    return KeptTokens(chunks, tokens_N, size), there == len(places)
