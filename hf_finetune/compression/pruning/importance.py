"""How much the network needs each neuron or attention head, by its weights or on calibration rows.

Neurons and heads are groups of inputs of a linear layer: of the one that maps neurons back to the hidden states, and of
the one after the attention.

Legend: B rows, T tokens, N inputs of the layer, G groups of them, D outputs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from hf_finetune.compression.calibration import Batch, real_tokens
from hf_finetune.evaluation.logits import evaluating, to_device
from hf_finetune.training.precision import exact_float32

Score = Literal["activation", "taylor", "fisher"]
"""How a group is judged.

activation: root of the mean square of the inputs, times the norm of their weights. taylor: how much the logits change
without it, to first order (arXiv:1905.10650, arXiv:1906.10771). fisher: the square of that change for a row
(arXiv:2204.09656). The last two give each logit a random sign, so that they need no labels."""


def group_scores(
    model: nn.Module, batches: Sequence[Batch], layers: Sequence[nn.Linear], groups: Sequence[int], score: Score
) -> list[torch.Tensor]:
    """Return the importance of each group of inputs of each layer, shapes (G,).

    Args:
        groups: number of groups of equal size of each layer.
    """
    sums: dict[nn.Linear, Any] = defaultdict(float)
    tokens: dict[nn.Linear, int] = defaultdict(int)
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    with evaluating(model), exact_float32():
        for batch in batches:
            for layer, inputs, gradient in _inputs(model, to_device(batch, device), layers, score, generator):
                number = groups[layers.index(layer)]
                sums[layer] += _of_batch(inputs, gradient, batch.get("attention_mask"), number, score)
                tokens[layer] += len(real_tokens(inputs, batch.get("attention_mask")))
    means = [sums[layer].cpu() / max(tokens[layer], 1) for layer in layers]
    if score != "activation":
        return means
    norms = [mean.sqrt() * layer.weight.detach().cpu().norm(dim=0) for mean, layer in zip(means, layers, strict=True)]
    return [norm.unflatten(0, (number, -1)).norm(dim=-1) for norm, number in zip(norms, groups, strict=True)]


def _inputs(
    model: nn.Module, batch: Batch, layers: Sequence[nn.Linear], score: Score, generator: torch.Generator
) -> list[tuple[nn.Linear, torch.Tensor, torch.Tensor | None]]:
    """Return the inputs of the layers in a forward pass, and their gradients if the score needs them."""
    needs_gradient = score != "activation"
    read: list[tuple[nn.Linear, torch.Tensor]] = []

    def take(layer: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if not needs_gradient:
            read.append((layer, inputs[0].detach()))
            return None
        # A leaf of the graph, unless a lower layer has one: then its gradient has to be retained.
        value = inputs[0] if inputs[0].requires_grad else inputs[0].detach().requires_grad_()
        value.retain_grad()
        read.append((layer, value))
        return (value, *inputs[1:])

    handles = [layer.register_forward_pre_hook(take) for layer in layers]
    try:
        with torch.set_grad_enabled(needs_gradient):
            logits = model(**batch).logits
            if needs_gradient:
                signs = torch.randint(0, 2, logits.shape, generator=generator).to(logits) * 2 - 1
                (logits * signs).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    return [(layer, value.detach(), value.grad) for layer, value in read]


def _of_batch(
    inputs: torch.Tensor, gradient: torch.Tensor | None, mask_BT: torch.Tensor | None, groups: int, score: Score
) -> torch.Tensor:
    """Return the sum over the tokens of a batch; of `activation` (N,), else (G,)."""
    if gradient is None:
        return real_tokens(inputs, mask_BT).square().sum(0)
    changes = (inputs * gradient).unflatten(-1, (groups, -1)).sum(-1)
    if score == "taylor":
        return real_tokens(changes, mask_BT).abs().sum(0)
    # Padding has no gradient.
    by_row = changes.sum(tuple(range(1, changes.ndim - 1))) if changes.ndim > 2 else changes
    return by_row.square().sum(0)
