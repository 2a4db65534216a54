"""Which of the pretrained weights train: all, biases, norms, attention, or those that a pattern names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.freezing import freeze_lower, frozen_layers
from hf_finetune.models.modules import head_modules

Which = Literal["all", "biases", "norms", "attention"]


def train_only(
    model: PreTrainedModel, which: Which = "all", pattern: str | None = None, fresh: Sequence[str] = ()
) -> None:
    """Freeze the encoder but the weights that are asked for; the head trains whatever is asked for.

    What was frozen before stays frozen. Layers below all that train run without dropout from then on, as those that
    `freeze.freeze_lower` freezes: their output for a given input never changes.

    Args:
        which: all; biases (BitFit, https://arxiv.org/abs/2106.10199), those of norms among them; norms, the scale and
            shift of every normalisation (https://arxiv.org/abs/2003.00152); attention, all weights of the attention
            blocks (https://arxiv.org/abs/2203.09795).
        pattern: regular expression; the weights train in whose name it is found (`layer\\.(10|11)\\.`). Beside
            `which` "all" only.
        fresh: modules that the checkpoint did not have, see `load.Loaded`; they count to the head.

    Raises:
        InputError: no weight of the encoder is of this kind, or none of the model bears such a name.
    """
    if which == "all" and pattern is None:
        return
    wanted = set(_named(model, pattern) if pattern is not None else _of_kind(model, which))
    head = {id(p) for name in head_modules(model, fresh) for p in model.get_submodule(name).parameters()}
    for name, parameter in model.named_parameters():
        if name not in wanted and id(parameter) not in head:
            parameter.requires_grad_(False)
    freeze_lower(model, frozen_layers(model))


def _named(model: PreTrainedModel, pattern: str) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    found = [name for name in names if re.search(pattern, name)]
    if not found:
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
        raise InputError(
            f"model.trainable_pattern: no weight of {model.config.model_type} is named {pattern!r}; names that come near: "
            + ", ".join(near)
        )
    return found


def _of_kind(model: PreTrainedModel, which: Which) -> list[str]:
    inside = f"{model.base_model_prefix}."
    found = [f"{name}.{own}" for name, module, own in _parameters(model) if _is(which, name, module, own)]
    found = [name for name in found if name.startswith(inside)]
    if not found:
        raise InputError(f"model.trainable: {model.config.model_type} has no {which} in its encoder; give another kind")
    return found


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Each parameter's module, by name, and the parameter's own name in it."""
    for name, module in model.named_modules():
        for own, _ in module.named_parameters(recurse=False):
            yield name, module, own


def _is(which: Which, name: str, module: nn.Module, own: str) -> bool:
    match which:
        case "biases":
            # DeBERTa's first version keeps q_bias and v_bias.
            return own == "bias" or own.endswith("_bias")
        case "norms":
            # Families bring norms of their own, which torch's classes do not cover, but all bear the name; ConvNeXt V2's is
            # called global response normalisation.
            return "Norm" in type(module).__name__ or type(module).__name__.endswith("GRN")
        case "attention":
            return any(part in ("attention", "attn") for part in name.split("."))
    return True
