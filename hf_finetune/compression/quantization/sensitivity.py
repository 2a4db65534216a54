"""How much the logits change if one linear layer alone is rounded to int8: a measured sweep over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from hf_finetune.compression.calibration import Batch, logits_of
from hf_finetune.compression.quantization.linear_layers import linear_layers


def sensitivities(network: nn.Module, batches: Sequence[Batch]) -> dict[str, float]:
    """Return the change of the logits by the name of the layer that is rounded, the most sensitive one first.

    The change is the root mean square of the difference, relative to the standard deviation of the logits.
    """
    exact = logits_of(network, batches)
    found = {}
    for name, layer in linear_layers(network).items():
        with rounded(layer):
            found[name] = float((logits_of(network, batches) - exact).square().mean().sqrt() / exact.std())
    return dict(sorted(found.items(), key=lambda each: -each[1]))


@contextmanager
def rounded(layer: nn.Linear) -> Iterator[None]:
    """Compute a layer with the values of dynamic int8, in float32: weights by channel, inputs by batch."""
    exact = layer.weight.data
    hook = layer.register_forward_pre_hook(lambda _, arguments: (rounded_inputs(arguments[0]),))
    layer.weight.data = rounded_weights(exact)
    try:
        yield
    finally:
        layer.weight.data = exact
        hook.remove()


def rounded_inputs(values: torch.Tensor) -> torch.Tensor:
    """Return the nearest of 256 evenly spaced values from the smallest to the largest, with 0 among them."""
    low, high = (float(bound) for bound in values.detach().aminmax())
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    return torch.fake_quantize_per_tensor_affine(values, scale, round(-low / scale), 0, 255)


def rounded_weights(weights: torch.Tensor) -> torch.Tensor:
    """Return the nearest of 255 evenly spaced values around 0, whose scale is that of the output channel."""
    scales = (weights.detach().abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weights, scales, zeros, 0, -127, 127)
