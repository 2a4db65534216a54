"""Which of the pretrained weights train: all, biases, norms, attention, or those that a pattern names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Literal

from torch import nn

from hf_finetune.errors import InputError
from hf_finetune.models.freezing import freeze_lower, frozen_layers
from hf_finetune.models.modules import config_of, head_modules, without_adapter

Which = Literal["all", "biases", "norms", "attention"]


def train_only(model: nn.Module, which: Which = "all", pattern: str | None = None, fresh: Sequence[str] = ()) -> None:
    """Freeze the encoder but for one kind of weights; the head trains whatever the kind is.

    What was frozen before stays frozen. Layers below all that train run without dropout from then on, as those that
    `freezing.freeze_lower` freezes: their output for a given input never changes.

    Args:
        which: all; biases (BitFit, https://arxiv.org/abs/2106.10199), those of norms among them; norms, the scale and
            shift of every normalization (https://arxiv.org/abs/2003.00152); attention, all weights of the attention
            blocks (https://arxiv.org/abs/2203.09795).
        pattern: regular expression; the weights train whose name it matches somewhere (`layer\\.(10|11)\\.`). With
            `which` "all" only.
        fresh: modules that the checkpoint did not have, see `loading.Loaded`; they count to the head.

    Raises:
        InputError: no weight of the encoder is of this kind, or none of the model has such a name.
    """
    if which == "all" and pattern is None:
        return
    trained = set(_of_kind(model, which) if pattern is None else _matching(model, pattern))
    head = {id(p) for name in head_modules(model, fresh) for p in model.get_submodule(name).parameters()}
    for name, parameter in model.named_parameters():
        if name not in trained and id(parameter) not in head:
            parameter.requires_grad_(False)
    freeze_lower(model, frozen_layers(model))


def _matching(model: nn.Module, pattern: str) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    matches = [name for name in names if re.search(pattern, name)]
    if not matches:
        close = ", ".join(difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3])
        family = config_of(model).model_type
        raise InputError(f"model.trainable_pattern: no weight of {family} is named {pattern!r}; close names: {close}")
    return matches


def _of_kind(model: nn.Module, which: Which) -> list[str]:
    prefix = f"{without_adapter(model).base_model_prefix}."
    names = [
        f"{name}.{own}"
        for name, module in model.named_modules()
        for own, _ in module.named_parameters(recurse=False)
        if f"{name}.".startswith(prefix) and _is_kind(which, name, module, own)
    ]
    if not names:
        family = config_of(model).model_type
        raise InputError(f"model.trainable: {family} has no {which} in its encoder; give another kind")
    return names


def _is_kind(which: Which, name: str, module: nn.Module, own: str) -> bool:
    """Whether a parameter, `own` in the module of this name, is of this kind."""
    if which == "biases":
        # DeBERTa's first version keeps q_bias and v_bias.
        return own == "bias" or own.endswith("_bias")
    if which == "norms":
        # Families bring norms of their own, which torch's classes do not cover, but all bear the name; ConvNeXt V2's is
        # called global response normalization.
        return "Norm" in type(module).__name__ or type(module).__name__.endswith("GRN")
    return any(part in ("attention", "attn") for part in name.split("."))
