"""Linear layers of fewer inputs or outputs.

Legend: N inputs, D outputs; M of them remain.
"""

from __future__ import annotations

import torch
from torch import nn


def keep_outputs(layer: nn.Linear, kept_M: torch.Tensor) -> nn.Linear:
    """Return a layer of these outputs."""
    bias = None if layer.bias is None else layer.bias[kept_M.to(layer.weight.device)]
    return _linear(layer, layer.weight[kept_M.to(layer.weight.device)], bias)


def keep_inputs(layer: nn.Linear, kept_M: torch.Tensor) -> nn.Linear:
    """Return a layer that reads these inputs, with the same weights."""
    return _linear(layer, layer.weight[:, kept_M.to(layer.weight.device)], layer.bias)


def with_weights(layer: nn.Linear, weight_DM: torch.Tensor) -> nn.Linear:
    """Return a layer of new weights, the last column of which is the bias, if the layer has one.

    Args:
        weight_DM: in float64, see `augmented_weight`.
    """
    if layer.bias is None:
        return _linear(layer, weight_DM, None)
    return _linear(layer, weight_DM[:, :-1], weight_DM[:, -1])


def augmented_weight(layer: nn.Linear) -> torch.Tensor:
    """Return the weights in float64 on the CPU, with the bias, if any, as last column: (D, N) or (D, N + 1)."""
    columns = [layer.weight] if layer.bias is None else [layer.weight, layer.bias[:, None]]
    return torch.cat([column.detach().cpu().double() for column in columns], 1)


def _linear(like: nn.Linear, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    outputs, inputs = weight.shape
    layer = nn.utils.skip_init(
        nn.Linear, inputs, outputs, bias=bias is not None, device=like.weight.device, dtype=like.weight.dtype
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    for new, old in zip(layer.parameters(), like.parameters(), strict=True):
        new.requires_grad_(old.requires_grad)
    return layer.train(like.training)
