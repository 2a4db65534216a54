"""Query, key and value of a layer as one matrix product.

Three products with the same input read it three times, cast it three times and add up three gradients of it. One
product with the three weights stacked gives the same numbers to rounding. On two cores a training step of a small BERT
in bf16 took 182 in place of 192 ms at 23 tokens a row, 84 in place of 88 at 11; without gradients nothing was gained.
The weights stay three parameters: what is saved, clipped and updated does not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import accumulate

import torch
from torch import nn
from torch.nn import functional as F

from hf_finetune.models.kernels.exchange import Exchange, exchanged
from hf_finetune.models.modules import query_key_value


class _Together:
    """Linear layers that are called one after another with the same input."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.layers = layers
        self.input: torch.Tensor | None = None
        self.outputs: dict[nn.Linear, torch.Tensor] = {}

    def __call__(self, layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        """The output of `layer` for `x`, shape (..., D) in, (..., its outputs) out."""
        if x is not self.input:
            weights: list[torch.Tensor] = [layer.weight for layer in self.layers]
            biases: list[torch.Tensor] = [
                layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
                for layer in self.layers
            ]
            together = F.linear(x, torch.cat(weights), torch.cat(biases))
            ends = accumulate(layer.out_features for layer in self.layers)
            # Not by split, whose parts no model may change in place, as Longformer does.
            self.outputs = {
                layer: together.narrow(-1, end - layer.out_features, layer.out_features)
                for layer, end in zip(self.layers, ends, strict=True)
            }
            self.input = x
        output = self.outputs.pop(layer)
        if not self.outputs:
            # Nothing stays alive from one pass to the next.
            self.input = None
        return output


class _Part(nn.Linear):
    """A linear layer that is computed together with its neighbors."""

    together: _Together

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (..., D) in, (..., out_features) out."""
        return self.together(self, x)


def fused_projections(model: nn.Module) -> AbstractContextManager[None]:
    """Inside, attention layers compute query, key and value at once; after, the model is as before.

    Layers of other kinds (with an adapter on one of the three, say) are left alone, and those that read other inputs
    each (MobileBERT's).
    """
    exchanges = []
    for module in model.modules():
        children = [module.get_submodule(name) for name in query_key_value(module) or ()]
        layers = [layer for layer in children if type(layer) is nn.Linear]
        if len(layers) == 3 and len({layer.in_features for layer in layers}) == 1:
            together = _Together(layers)
            exchanges += [Exchange(layer, _Part, {"together": together}) for layer in layers]
    return exchanged(exchanges)
