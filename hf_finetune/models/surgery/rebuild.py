"""A model with some of its weights in another shape, the others carried over as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_finetune.models.surgery.weights import Weights

Change = Callable[[str, "torch.Tensor", "torch.Size"], "torch.Tensor"]
"""From a weight's name, its values and the shape that it must have, to the values in that shape."""


def rebuild(model: PreTrainedModel, config: PreTrainedConfig, change: Change) -> PreTrainedModel:
    """What plain transformers builds from `config`, with the weights of `model`.

    Whatever follows from the config (buffers, padding, sizes that modules remember) is then as a reloaded model has it,
    which changing modules in place would have to repeat by hand.

    Args:
        config: of a model with the same weights by name, some of them in another shape.
        change: gives those.
    """
    from hf_finetune.models.surgery.weights import built

    def weights(old: Weights, new: Weights) -> Weights:
        shapes = {name: tensor.shape for name, tensor in new.items()}
        return {n: t if t.shape == shapes[n] else change(n, t, shapes[n]) for n, t in old.items()}

    return built(model, config, weights)
