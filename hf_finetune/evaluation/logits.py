"""Logits of many rows from one model: batched by length, returned in row order.

Legend: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from hf_finetune.data.inputs import EpochRows

# Rows are sorted by length within parts of so many: texts are small, and a longer part has less padding.
PART_ROWS = {"text": 8192, "image": 512}
# Padded tokens of a forward pass that a processor's caches hold: with 512 rows of 12, or 48 of 128, it is 10 to 30%
# slower, with a quarter of these tokens as well.
TOKENS = 2048
Collate = Callable[[Any], dict[str, torch.Tensor]]
# Rows that a DataLoader reads by lists of indices, see `data.inputs.Rows`, or some of them.
Indexed = EpochRows | Subset


def predict_logits(
    model: nn.Module,
    rows: Indexed,
    collate: Collate,
    *,
    batch_size: int | None = 64,
    tokens: int | None = None,
    lengths: np.ndarray | None = None,
    autocast: torch.dtype | None = None,
    progress: str | None = None,
) -> np.ndarray:
    """Run `model` over all rows without gradients and return its logits.

    Args:
        rows: `rows[[i, j]]`-style dataset, see `data.inputs.Rows`.
        batch_size: rows of a forward pass. None: as `tokens` says.
        tokens: padded tokens of a forward pass, where there are `lengths`; else 64 rows.
        lengths: shape (N,), tokens of each row; rows of like length share a batch. None: batches in row order.
        autocast: dtype of the matrix products; None: float32.
        progress: label of a progress bar on stderr, where that is a terminal; None: no bar.

    Returns:
        Shape (N, C), float32, in row order whatever the batches were.
    """
    weight = next(model.parameters())
    device, dtype = weight.device, weight.dtype
    order = np.arange(len(rows)) if lengths is None else np.argsort(lengths, kind="stable")
    if batch_size is None and lengths is not None and tokens is not None:
        batches = cut_by_tokens(order, lengths, tokens)
    else:
        size = batch_size or 64
        batches = [order[i : i + size].tolist() for i in range(0, len(order), size)]
    loader = DataLoader(rows, batch_sampler=batches, collate_fn=collate)
    parts = []
    # Not inference_mode: BEiT keeps an index tensor from one forward pass to the next, and could not be trained after.
    bar = tqdm(loader, desc=progress, disable=True if progress is None else None, leave=False, dynamic_ncols=True)
    with bar, evaluating(model), torch.no_grad(), cast(device, autocast):
        for batch in bar:
            batch = to_device(batch, device)
            if dtype != torch.float32:
                batch = {n: v.to(dtype) if torch.is_floating_point(v) else v for n, v in batch.items()}
            logits = model(**batch).logits
            parts.append(logits.float().cpu().numpy())
    in_batches = np.concatenate(parts)
    logits_NC = np.empty_like(in_batches)
    logits_NC[order] = in_batches
    return logits_NC


def gather_logits(part: np.ndarray, rows: int, processes: int) -> np.ndarray:
    """Logits (N, C) of all rows, for every process, from the share of each: process i has rows i, i + processes, ...

    Args:
        part: this process's.
        rows: N.
        processes: of the run; all of them call this.
    """
    if processes == 1:
        return part
    parts: list[Any] = [None] * processes
    torch.distributed.all_gather_object(parts, part)
    whole_NC = np.empty((rows, part.shape[1]), dtype=part.dtype)
    for process, logits in enumerate(parts):
        whole_NC[process::processes] = logits
    return whole_NC


def cut_by_tokens(order: np.ndarray, lengths: np.ndarray, tokens: int) -> list[list[int]]:
    """Rows of each forward pass: as many as stay within so many padded tokens, at least one.

    Args:
        order: rows, short ones first.
        lengths: shape (N,), tokens of each row.
    """
    batches, start, in_order = [], 0, lengths[order]
    while start < len(order):
        # A batch is as long as its last row.
        longest = in_order[start : start + max(1, tokens // int(in_order[start]))]
        size = max(1, int(np.searchsorted(longest * np.arange(1, len(longest) + 1), tokens, side="right")))
        batches.append(order[start : start + size].tolist())
        start += size
    return batches


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on `device`; numbers, like the longest row of a packed batch, stay where they are."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) in the block, the former mode after."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def cast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast | nullcontext:
    """Autocast to `dtype` on `device`; None: nothing is cast."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
