"""Query, key and value of a layer as one matrix product.

Three products with the same input read it three times, cast it three times and add up three gradients of it. One product
with the three weights stacked gives the same numbers to rounding. On two cores a training step of a small BERT in bf16 took
182 in place of 192 ms at 23 tokens a row, 84 in place of 88 at 11; without gradients nothing was gained. The weights stay
three parameters: what is saved, clipped and updated does not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import nn
from torch.nn import functional as F

# How the families call the three.
NAMES = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"), ("q", "k", "v"))


class _Together:
    """Linear layers that are called one after another with the same input."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.layers = layers
        self.input: torch.Tensor | None = None
        self.outputs: dict[nn.Linear, torch.Tensor] = {}

    def __call__(self, layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        """What `layer` gives for `x`, shape (..., D) in, (..., its outputs) out."""
        if x is not self.input:
            biases = [
                layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
                for layer in self.layers
            ]
            together = F.linear(x, torch.cat([layer.weight for layer in self.layers]), torch.cat(biases))
            ends = accumulate(layer.out_features for layer in self.layers)
            # Not by split, whose parts no model may change in place, as Longformer does.
            parts = {
                layer: together.narrow(-1, end - layer.out_features, layer.out_features)
                for layer, end in zip(self.layers, ends, strict=True)
            }
            self.input, self.outputs = x, parts
        found = self.outputs.pop(layer)
        if not self.outputs:
            # Nothing is kept alive from one pass to the next.
            self.input = None
        return found


class _Part(nn.Linear):
    """A linear layer that is computed together with its neighbours."""

    together: _Together

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (..., D) in, (..., out_features) out."""
        return self.together(self, x)


@contextmanager
def fused_projections(model: nn.Module) -> Iterator[None]:
    """Inside, attention layers compute query, key and value at once; after, the model is as before.

    Layers of other kinds (with an adapter on one of the three, say) are left alone, and those that read other inputs each
    (MobileBERT's).
    """
    parts: list[nn.Linear] = []
    for module in model.modules():
        children = dict(module.named_children())
        for names in NAMES:
            layers = [children[name] for name in names if name in children]
            alike = all(type(layer) is nn.Linear for layer in layers) and len({x.in_features for x in layers}) == 1
            if len(layers) == 3 and alike:
                together = _Together(layers)
                for layer in layers:
                    layer.__class__, layer.together = _Part, together
                parts += layers
    try:
        yield
    finally:
        for layer in parts:
            layer.__class__ = nn.Linear
            del layer.together
