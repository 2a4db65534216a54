"""Batches of calibration rows, and what a layer reads of them.

Legend: B rows, T tokens, N features, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from hf_finetune.data.inputs import Rows, columns_of, without_votes
from hf_finetune.evaluation.logits import TOKENS, batches_by_tokens, evaluating, to_device
from hf_finetune.models.families import family_of
from hf_finetune.models.modules import config_of
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.training.precision import exact_float32

IMAGES = 32
"""Images of a batch."""
Batch = Mapping[str, Any]


def calibration_batches(classifier: TrainedModel, rows: Dataset) -> list[Batch]:
    """Return the rows as inputs of the network, sorted by length."""
    inputs = classifier.inputs
    encoded = inputs.encode_in_memory(rows)
    lengths, read = inputs.lengths(encoded), Rows(encoded, columns_of(inputs, labels=False))
    if lengths is None:
        groups = [list(range(at, min(at + IMAGES, len(read)))) for at in range(0, len(read), IMAGES)]
    else:
        groups = batches_by_tokens(np.argsort(lengths, kind="stable"), lengths, TOKENS)
    return [without_votes(inputs.collate(read.__getitems__(group))) for group in groups]


class _Stop(Exception):
    """No further layer of a network has to be computed."""


@torch.no_grad()
def read_inputs(
    model: nn.Module, batches: Sequence[Batch], layer: nn.Module, add: Callable[[torch.Tensor], None]
) -> None:
    """Call a function with the inputs of a linear layer on each batch, (tokens, N), without those of padding.

    Args:
        layer: of the model. What follows it is not computed.
    """
    mask_BT: torch.Tensor | None = None

    def take(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        add(real_tokens(inputs[0], mask_BT))

    def stop(*_: Any) -> None:
        raise _Stop

    handles = [layer.register_forward_pre_hook(take)]
    if not family_of(config_of(model)).shared:  # ALBERT applies its one layer many times
        handles.append(layer.register_forward_hook(stop))
    device = next(model.parameters()).device
    try:
        with evaluating(model), exact_float32():
            for batch in batches:
                mask_BT = batch.get("attention_mask")
                try:
                    model(**to_device(batch, device))
                except _Stop:
                    continue
    finally:
        for handle in handles:
            handle.remove()


def real_tokens(values_BTN: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    """Return the values of all tokens but padding, (tokens, N).

    Args:
        values_BTN: of the first tokens only where the last layer computes no others.
        mask_BT: None: there is no padding.
    """
    if mask_BT is None or values_BTN.ndim != 3 or len(values_BTN) != len(mask_BT):
        return values_BTN.flatten(0, -2)
    return values_BTN[mask_BT[:, : values_BTN.shape[1]].to(values_BTN.device).bool()]


@torch.no_grad()
def logits_of(model: nn.Module, batches: Sequence[Batch]) -> torch.Tensor:
    """Return the logits of all rows, or words, in the order of the batches, (rows, C)."""
    device = next(model.parameters()).device
    with evaluating(model), exact_float32():
        return torch.cat([model(**to_device(batch, device)).logits.float().cpu() for batch in batches])
