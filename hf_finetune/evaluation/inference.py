"""Logits of many rows from one model: batched by length, returned in row order.

Legend: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

Collate = Callable[[dict[str, list]], dict[str, torch.Tensor]]


def predict_logits(
    model: nn.Module,
    rows: Dataset,
    collate: Collate,
    *,
    batch_size: int = 64,
    lengths: np.ndarray | None = None,
    autocast: torch.dtype | None = None,
    progress: str | None = None,
) -> np.ndarray:
    """Run `model` over all rows without gradients and return its logits.

    Args:
        rows: `rows[[i, j]]`-style dataset, see `data.inputs.Rows`.
        lengths: shape (N,), tokens of each row; rows of like length share a batch. None: batches in row order.
        autocast: dtype of the matrix products; None: float32.
        progress: label of a progress bar on stderr; None: no bar.

    Returns:
        Shape (N, C), float32, in row order whatever the batches were.
    """
    device = next(model.parameters()).device
    order = np.arange(len(rows)) if lengths is None else np.argsort(lengths, kind="stable")
    batches = [order[i : i + batch_size].tolist() for i in range(0, len(order), batch_size)]
    loader = DataLoader(rows, batch_sampler=batches, collate_fn=collate)
    parts = []
    # Not inference_mode: BEiT keeps an index tensor from one forward pass to the next, and could not be trained after.
    bar = tqdm(loader, desc=progress, disable=progress is None, leave=False, dynamic_ncols=True)
    with bar, evaluating(model), torch.no_grad(), cast(device, autocast):
        for batch in bar:
            logits = model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
            parts.append(logits.float().cpu().numpy())
    in_batches = np.concatenate(parts)
    logits_NC = np.empty_like(in_batches)
    logits_NC[order] = in_batches
    return logits_NC


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) inside, the former mode after."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def cast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast | nullcontext:
    """Autocast to `dtype` on `device`; None: nothing is cast."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
