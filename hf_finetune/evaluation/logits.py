"""Compute the logits of many rows, batched by length and returned in row order.

Legend: N rows, C classes.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from hf_finetune.data.inputs import EpochRows
from hf_finetune.data.long.sliding import VOTES
from hf_finetune.data.long.windows import mean_of_windows
from hf_finetune.data.ragged import places_of
from hf_finetune.utils.console import Progress

# Rows of a part, within which rows are sorted by length: texts take little memory, and a longer part has less padding.
PART_ROWS = {"text": 8192, "image": 512}
# Padded tokens of a forward pass, to fit into a processor's caches: 512 rows of 12 tokens, or 48 of 128, are 10 to 30%
# slower, and so is a quarter of these tokens.
TOKENS = 2048
Collate = Callable[[Any], dict[str, torch.Tensor]]
# Rows that are read by lists of indices, see `data.inputs.Rows`, or a subset of them.
Indexed = EpochRows | Subset


def predict_logits(
    model: nn.Module,
    rows: Indexed,
    collate: Collate,
    *,
    batch_size: int | None = 64,
    tokens: int | None = None,
    lengths: np.ndarray | None = None,
    counts: np.ndarray | None = None,
    autocast: torch.dtype | None = None,
    progress: str | None = None,
) -> np.ndarray:
    """Run `model` over all rows without gradients and return its logits.

    Args:
        rows: dataset that is read by lists of indices, see `data.inputs.Rows`.
        batch_size: rows of a forward pass. None: determined by `tokens`.
        tokens: padded tokens of a forward pass; without `lengths`, a pass has 64 rows instead.
        lengths: shape (N,), tokens of each row; rows of similar length share a batch. None: batches in row order.
        counts: shape (N,), logits of each row, of which there is one for each word, see `data.word_inputs`. None: one.
        autocast: dtype of matrix products; None: float32.
        progress: title under which the rows are counted, see `utils.console.Progress`; None: they are not.

    Returns:
        Shape (N, C), float32, in row order; of words (W, C).
    """
    weight = next(model.parameters())
    device, dtype = weight.device, weight.dtype
    batches = _batches(len(rows), lengths, batch_size, tokens)
    loader = DataLoader(rows, batch_sampler=batches, collate_fn=collate)
    parts = []
    bar = nullcontext() if progress is None else Progress(progress, total=len(rows), quiet=True)
    # Not inference_mode: BEiT caches an index tensor in a forward pass, and could not be trained afterwards.
    with bar as shown, evaluating(model), torch.no_grad(), autocast_to(autocast, device):
        for indices, batch in zip(batches, loader, strict=True):
            batch = to_device(batch, device)
            votes_BK = batch.pop(VOTES, None)
            if dtype != torch.float32:
                batch = {n: v.to(dtype) if torch.is_floating_point(v) else v for n, v in batch.items()}
            logits = model(**batch).logits.float()
            parts.append((logits if votes_BK is None else mean_of_windows(logits, votes_BK)).cpu().numpy())
            if shown is not None:
                shown.update(len(indices))
    in_batches = np.concatenate(parts)
    if lengths is None:
        return in_batches
    order = np.concatenate(batches)
    logits_NC = np.empty_like(in_batches)
    logits_NC[order if counts is None else places_of(order, counts)] = in_batches
    return logits_NC


def _batches(rows: int, lengths: np.ndarray | None, batch_size: int | None, tokens: int | None) -> list[list[int]]:
    order = np.arange(rows) if lengths is None else np.argsort(lengths, kind="stable")
    if batch_size is None and lengths is not None and tokens is not None:
        return batches_by_tokens(order, lengths, tokens)
    size = batch_size or 64
    return [order[i : i + size].tolist() for i in range(0, rows, size)]


def gather_logits(part: np.ndarray, rows: int, processes: int, counts: np.ndarray | None = None) -> np.ndarray:
    """Gather the logits (N, C) of all rows on every process. Process i has the rows i, i + processes, ...

    Args:
        part: logits of this process.
        rows: number of all rows N.
        processes: number of processes, all of which call this.
        counts: of all rows, see `predict_logits`.
    """
    if processes == 1:
        return part
    parts: list[Any] = [None] * processes
    torch.distributed.all_gather_object(parts, part)
    logits_NC = np.empty((rows if counts is None else counts.sum(), part.shape[1]), dtype=part.dtype)
    for process, logits in enumerate(parts):
        of_process = np.arange(process, rows, processes)
        logits_NC[of_process if counts is None else places_of(of_process, counts)] = logits
    return logits_NC


def non_finite_row(logits_NC: np.ndarray) -> tuple[int, str] | None:
    """Return the index of the first row with a logit that is NaN or infinite, and its first logits; None: no row."""
    is_finite_N = np.isfinite(logits_NC).all(axis=1)
    if is_finite_N.all():
        return None
    first = int(is_finite_N.argmin())
    return first, ", ".join(f"{value:.3g}" for value in logits_NC[first][:5])


def batches_by_tokens(order: np.ndarray, lengths: np.ndarray, tokens: int) -> list[list[int]]:
    """Divide rows into batches of at most this many padded tokens, or of one row.

    Args:
        order: row indices, from short to long rows.
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
    """Move the tensors of a batch to `device`; a packed batch also has numbers."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode (no dropout) within the block, and restore the former mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def autocast_to(dtype: torch.dtype | None, device: torch.device) -> torch.autocast | nullcontext:
    """Return the context of mixed precision in `dtype` on `device`; None: no mixed precision."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
