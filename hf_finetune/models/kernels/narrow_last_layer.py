"""Compute the last layer for the first token only, if the head reads no other token.

A BERT-like head pools the first token, so that most of the last layer's work, the attention outputs and feed-forward
networks of all other tokens, is unused: three quarters of that layer, a ninth of a network with six layers. Without it,
logits and gradients are the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from hf_finetune.models.families import family_of
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.modules import encoder_layers


def narrow_to_first_token(model: PreTrainedModel) -> RemovableHandle | None:
    """Compute the last layer for the first token of each row only.

    Returns:
        A handle that undoes it; None if the head reads other tokens, or the layers of the family mix them to the end.
    """
    family = family_of(model.config)
    if isinstance(model, CustomHeadClassifier):
        reads_first = model.reads_only_first_token
    else:
        reads_first = type(model).__name__.endswith("ForSequenceClassification")
    if family.tokenwise_from is None or not reads_first:
        return None
    return encoder_layers(model)[-1].get_submodule(family.tokenwise_from).register_forward_pre_hook(_first_token)


def _first_token(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(x_BTD[:, :1] for x_BTD in inputs)


@contextmanager
def all_tokens(model: nn.Module) -> Iterator[None]:
    """Undo `narrow_to_first_token` in the context."""
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


def is_narrowed(layer: nn.Module) -> bool:
    """Whether `narrow_to_first_token` narrowed this layer, and it has no other inner hook."""
    inner = (module for module in layer.modules() if module is not layer)
    hooks = [hook for m in inner for hook in (*m._forward_pre_hooks.values(), *m._forward_hooks.values())]
    return hooks == [_first_token]
