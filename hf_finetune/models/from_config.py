"""A network of random weights, with a checkpoint's family and tokenizer, and its config but for some fields.

So a student can be as small as it has to be, where no smaller checkpoint is at hand.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel, PreTrainedConfig
from transformers.activations import ACT2FN

from hf_finetune.errors import InputError
from hf_finetune.models.families import family_of, stage_widths
from hf_finetune.models.safety import one_line
from hf_finetune.utils.config import validated
from hf_finetune.utils.messages import did_you_mean

FIELD = "model.from_config"
# Of a family's own fields, those that follow from something else, or with which it is no classifier.
NOT_FREE = {
    "vocab_size": "it is that of the checkpoint's tokenizer",
    "num_channels": "images come in three colors",
    "is_decoder": "an encoder is trained here",
    "add_cross_attention": "an encoder is trained here",
}
# What a config derives from its other fields, unless a file has it: then for the checkpoint's sizes.
DERIVED = ("layer_types", "stage_names", "out_features", "out_indices", "pooler_output_size", "pooler_hidden_size")
# One number for each stage of a network, and how many stages there are.
BY_STAGE = ("hidden_sizes", "num_heads", "patch_sizes", "strides", "padding")
STAGES = ("num_stages", "num_encoder_blocks")


def resized(config: PreTrainedConfig, changes: Mapping[str, Any]) -> PreTrainedConfig:
    """The checkpoint's config with some of its fields set otherwise.

    Args:
        changes: the family's own fields, by the names that its config class has for them: not those that every config
            has, nor what follows from the tokenizer or the data.

    Raises:
        InputError: naming the field: there is no such one, its value is of another type or out of range, or does not go
            with another field's.
    """
    if config.to_dict().get("auto_map"):
        _refuse("", "expected a family of transformers itself, got a checkpoint with code of its own")
    new_fields = {}
    for name, value in changes.items():
        own = config.attribute_map.get(name, name)
        new_fields[own] = _checked(config, name, own, value)
    plain = {n: v for n, v in config.to_dict().items() if n not in DERIVED} | new_fields
    try:
        new = type(config).from_dict(plain)
    except (StrictDataclassError, ValueError, TypeError, KeyError, IndexError) as error:
        _refuse("", one_line(error))
    _check_together(new)
    return new


def check_buildable(config: PreTrainedConfig) -> None:
    """Build the encoder that a config describes, without memory behind it.

    Nothing is sent through: BEiT keeps an index from its first forward pass for all networks of the process, and would
    keep one without memory.

    Raises:
        InputError: with the library's message.
    """
    try:
        with torch.device("meta"):
            AutoModel.from_config(config)
    except (ValueError, RuntimeError, TypeError, LookupError, ArithmeticError) as error:
        _refuse("", f"no {config.model_type} can be built so: {one_line(error)}")


def _refuse(name: str, what: str) -> NoReturn:
    raise InputError(f"{FIELD}{'.' if name else ''}{name}: {what}")


def _checked(config: PreTrainedConfig, name: str, own: str, value: Any) -> Any:
    """The value of one field, by itself; `own` is its name in the config class."""
    general = {f.name for f in fields(PreTrainedConfig)}
    known = [f.name for f in fields(config) if f.name not in general and not f.name.startswith("_")]
    free = [*known, *config.attribute_map]
    free = [n for n in free if n not in NOT_FREE and not n.endswith("_token_id")]
    if own in NOT_FREE or (own in known and own.endswith("_token_id")):
        _refuse(name, f"expected no such field: {NOT_FREE.get(own, NOT_FREE['vocab_size'])}; leave it out")
    if own not in known:
        hint = did_you_mean(name, free) or f"; known: {', '.join(sorted(free))}"
        _refuse(name, f"the config of {config.model_type} has no such field{hint}")
    value = validated(value, typing.get_type_hints(type(config), localns={"torch": torch})[own], f"{FIELD}.{name}")
    if own == "image_size" and not isinstance(value, int):
        _refuse(name, f"expected one number, the side of a square image in pixels, got {value}")
    if own.endswith(("_act", "activation")) and isinstance(value, str) and value not in ACT2FN:
        hint = did_you_mean(value, ACT2FN) or f"; known: {', '.join(ACT2FN)}"
        _refuse(name, f"{value!r} is none of transformers' activations{hint}")
    _check_range(name, value, _numbers(config.to_dict().get(own)))
    return value


def _numbers(value: Any) -> list[int | float]:
    """The numbers in a field that holds one or several."""
    several = value if isinstance(value, list | tuple) else [value]
    return [n for n in several if isinstance(n, int | float) and not isinstance(n, bool)]


def _check_range(name: str, value: Any, before: Sequence[int | float]) -> None:
    """Sizes stay sizes: a whole number that is 1 or more in the checkpoint is so here."""
    for number in _numbers(value):
        if not math.isfinite(number):
            _refuse(name, f"expected a finite number, got {value}")
        if "drop" in name and not 0 <= number < 1:
            _refuse(name, f"expected at least 0 and below 1, got {value}")
        if isinstance(number, int) and number < 1 and before and min(before) >= 1:
            _refuse(name, f"expected at least 1, got {value}")
        if number < 0 and before and min(before) >= 0:
            _refuse(name, f"expected 0 or more, got {value}")


def _check_together(config: PreTrainedConfig) -> None:
    """Fields that must fit one another, each of which may be as the checkpoint has it."""
    plain = config.to_dict()
    plain |= {name: plain.get(own) for name, own in config.attribute_map.items()}
    if "depths" in plain:
        stages = len(plain["depths"])
        for name in BY_STAGE:
            if name in plain and len(plain[name]) != stages:
                _refuse(name, f"expected {stages} numbers, as many as depths has, got {plain[name]}")
        for name in STAGES:
            if name in plain and plain[name] != stages:
                _refuse(name, f"expected {stages}, as many as depths has numbers, got {plain[name]}")
    width, heads = plain.get("hidden_size"), plain.get("num_attention_heads")
    family = family_of(config)
    if family is not None and family.staged and family.attention is not None:
        for width_here, heads_here in zip(stage_widths(config), plain["num_heads"], strict=True):
            _check_heads("embed_dim", width_here, heads_here)
    elif isinstance(width, int) and isinstance(heads, int):
        _check_heads("hidden_size", width, heads)
    side, patch = plain.get("image_size"), plain.get("patch_size")
    if isinstance(side, int) and isinstance(patch, int) and side % patch:
        _refuse("image_size", f"expected a multiple of patch_size {patch}, got {side}")


def _check_heads(name: str, width: int, heads: int) -> None:
    if width % heads:
        _refuse(name, f"expected a multiple of the {heads} attention heads, got {width}")
