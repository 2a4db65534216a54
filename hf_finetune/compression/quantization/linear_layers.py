"""The linear layers of a network, and their inputs.

Legend: D inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from hf_finetune.compression.calibration import Batch, logits_of
from hf_finetune.errors import InputError
from hf_finetune.models.modules import encoder_layers, without_adapter


def linear_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers by name."""
    return {name: module for name, module in network.named_modules() if type(module) is nn.Linear}


def after_the_encoder(network: nn.Module) -> set[str]:
    """Return the names of linear layers outside of the encoder's layers.

    They compute one token of a row, so that they take no time, and BERT's pooler was the most sensitive layer of all.
    """
    try:
        layers = encoder_layers(without_adapter(network))
    except InputError:  # a family without a list of layers
        return set()
    inner = {id(module) for layer in layers for module in layer.modules()}
    return {name for name, layer in linear_layers(network).items() if id(layer) not in inner}


def largest_inputs(network: nn.Module, batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
    """Return the largest absolute value of each input of each linear layer: shape (D,), by the name of the layer."""
    found: dict[str, torch.Tensor] = {}

    def observing(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def observe(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            largest_D = arguments[0].detach().abs().flatten(0, -2).amax(0).cpu()
            found[name] = torch.maximum(found[name], largest_D) if name in found else largest_D

        return observe

    hooks = [layer.register_forward_pre_hook(observing(name)) for name, layer in linear_layers(network).items()]
    try:
        logits_of(network, batches)
    finally:
        for hook in hooks:
            hook.remove()
    return found
