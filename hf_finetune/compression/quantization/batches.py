"""Batches of calibration rows, and what a network computes of them.

Legend: B rows, T tokens, D inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from datasets import Dataset
from torch import nn

from hf_finetune.data.inputs import Rows, columns_of, without_votes
from hf_finetune.data.word_inputs import WORD_PLACES
from hf_finetune.evaluation.logits import batches_by_tokens, evaluating
from hf_finetune.tasks.trained_model import TrainedModel

Batch: TypeAlias = Mapping[str, torch.Tensor]
BATCH_TOKENS, BATCH_IMAGES = 2048, 16
"""Size of a batch."""


def calibration_batches(classifier: TrainedModel, rows: Dataset) -> list[Batch]:
    """Return canonical rows as inputs of the network, texts of similar length together, each with its mask."""
    inputs = classifier.inputs
    encoded = inputs.encode_in_memory(rows)
    lengths = inputs.lengths(encoded)
    if lengths is None:
        groups = [list(range(i, min(i + BATCH_IMAGES, len(rows)))) for i in range(0, len(rows), BATCH_IMAGES)]
    else:
        groups = batches_by_tokens(lengths.argsort(kind="stable"), lengths, BATCH_TOKENS)
    columns = Rows(encoded, columns_of(inputs, labels=False))
    batches: list[Batch] = []
    for group in groups:
        batch = without_votes(inputs.collate(columns.__getitems__(group)))
        batch.pop(WORD_PLACES, None)
        if "input_ids" in batch:
            batch.setdefault("attention_mask", torch.ones_like(batch["input_ids"]))
        batches.append(batch)
    return batches


def linear_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers by name."""
    return {name: module for name, module in network.named_modules() if type(module) is nn.Linear}


def logits_of(network: nn.Module, batches: Sequence[Batch]) -> torch.Tensor:
    """Return the logits of all batches as one vector."""
    with evaluating(network), torch.no_grad():
        return torch.cat([network(**batch).logits.float().flatten() for batch in batches])


def largest_inputs(network: nn.Module, batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
    """Return the largest absolute value of each input of each linear layer: shape (D,), by the name of the layer."""
    found: dict[str, torch.Tensor] = {}

    def observing(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def observe(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            largest_D = arguments[0].detach().abs().flatten(0, -2).amax(0)
            found[name] = torch.maximum(found[name], largest_D) if name in found else largest_D

        return observe

    hooks = [layer.register_forward_pre_hook(observing(name)) for name, layer in linear_layers(network).items()]
    try:
        logits_of(network, batches)
    finally:
        for hook in hooks:
            hook.remove()
    return found
