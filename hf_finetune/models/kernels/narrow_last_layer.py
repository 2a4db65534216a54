"""The last layer, computed for the first token alone where the head reads no other.

A BERT-like head pools the first token. What the last layer makes of the others is thrown away: their attention output
and feed-forward network, three quarters of that layer's work, a ninth of a six-layer network's. Left out, the logits
and gradients are the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from hf_finetune.models.families import family_of
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.modules import encoder_layers


def first_token_alone(model: PreTrainedModel) -> RemovableHandle | None:
    """Compute the last layer for the first token of each row alone; hidden states of the others end before it.

    Returns:
        A handle that undoes it; None for families whose head reads other tokens, or whose layers mix them to the end.
    """
    family = family_of(model.config)
    if isinstance(model, CustomHeadClassifier):
        reads_first = model.reads_first_token_alone
    else:
        reads_first = type(model).__name__.endswith("ForSequenceClassification")
    if family is None or family.tokenwise_from is None or not reads_first:
        return None
    return encoder_layers(model)[-1].get_submodule(family.tokenwise_from).register_forward_pre_hook(_first_token)


def _first_token(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(x_BTD[:, :1] for x_BTD in inputs)


@contextmanager
def all_tokens(model: nn.Module) -> Iterator[None]:
    """Inside, the last layer is computed for all tokens, despite `first_token_alone`; after, as before."""
    narrowed = [
        (module._forward_pre_hooks, key)
        for module in model.modules()
        for key, hook in module._forward_pre_hooks.items()
        if hook is _first_token
    ]
    for hooks, key in narrowed:
        del hooks[key]
    try:
        yield
    finally:
        for hooks, key in narrowed:
            hooks[key] = _first_token


def is_first_token_alone(layer: nn.Module) -> bool:
    """Whether this layer is computed so, and has no other hook inside."""
    inner = (module for module in layer.modules() if module is not layer)
    hooks = [hook for m in inner for hook in (*m._forward_pre_hooks.values(), *m._forward_hooks.values())]
    return hooks == [_first_token]
