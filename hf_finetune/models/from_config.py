"""Change fields of a checkpoint's config, for a randomly initialized network of another size.

This makes students of any size, if no smaller checkpoint exists.
"""

import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn

import torch
from transformers import AutoModel, PreTrainedConfig
from transformers.activations import ACT2FN

from hf_finetune.errors import InputError
from hf_finetune.models.contexts import input_errors
from hf_finetune.models.families import family_of, stage_widths
from hf_finetune.utils.config import validated
from hf_finetune.utils.messages import did_you_mean

FIELD = "model.from_config"
# Fields of a family that must not change, and why.
FIXED_FIELDS = {
    "vocab_size": "it is that of the checkpoint's tokenizer",
    "num_channels": "images come in three colors",
    "is_decoder": "only encoders can be trained",
    "add_cross_attention": "only encoders can be trained",
}
# Fields that a config derives from others, but only if config.json does not contain them.
DERIVED = ("layer_types", "stage_names", "out_features", "out_indices", "pooler_output_size", "pooler_hidden_size")
# Fields with one number per stage, and fields with the number of stages.
BY_STAGE = ("hidden_sizes", "num_heads", "patch_sizes", "strides", "padding")
STAGES = ("num_stages", "num_encoder_blocks")


def resized(config: PreTrainedConfig, changes: Mapping[str, Any]) -> PreTrainedConfig:
    """Return a copy of a checkpoint's config with some fields changed.

    Args:
        changes: values by field. Only fields of the family's own config class can be changed, and not those that follow
            from the tokenizer or the data.

    Raises:
        InputError: a field does not exist, or its value has the wrong type, is out of range, or conflicts with another
            field.
    """
    if config.to_dict().get("auto_map"):
        _refuse("", "expected a family of transformers itself, got a checkpoint with remote code")
    new_fields = {}
    for name, value in changes.items():
        field = config.attribute_map.get(name, name)
        new_fields[field] = _checked(config, name, field, value)
    plain = {n: v for n, v in config.to_dict().items() if n not in DERIVED} | new_fields
    with input_errors(FIELD):
        new = type(config).from_dict(plain)
    _check_together(new)
    return new


def check_buildable(config: PreTrainedConfig, most: int) -> None:
    """Build the encoder of a config on the meta device.

    Without a forward pass: BEiT caches an index from its first one for all networks of the process.

    Args:
        most: see `CheckpointLimits.max_parameters`.

    Raises:
        InputError: the library cannot build it, with its message; or it is too large.
    """
    with input_errors(f"{FIELD}: no {config.model_type} can be built from these fields"), torch.device("meta"):
        model = AutoModel.from_config(config)
    weights = sum(parameter.numel() for parameter in model.parameters())
    if weights > most:
        _refuse("", f"expected {most:,} weights or less, got {weights:,}; raise --model.max-parameters")


def _refuse(name: str, what: str) -> NoReturn:
    raise InputError(f"{FIELD}{'.' if name else ''}{name}: {what}")


def _checked(config: PreTrainedConfig, name: str, field: str, value: Any) -> Any:
    """Return the value of one field, checked by itself; `field` is its name in the config class."""
    general = {f.name for f in fields(PreTrainedConfig)}
    known = [f.name for f in fields(config) if f.name not in general and not f.name.startswith("_")]
    free = [*known, *config.attribute_map]
    free = [n for n in free if n not in FIXED_FIELDS and not n.endswith("_token_id")]
    if field in FIXED_FIELDS or (field in known and field.endswith("_token_id")):
        _refuse(name, f"expected no such field: {FIXED_FIELDS.get(field, FIXED_FIELDS['vocab_size'])}; leave it out")
    if field not in known:
        hint = did_you_mean(name, free) or f"; known: {', '.join(sorted(free))}"
        _refuse(name, f"the config of {config.model_type} has no such field{hint}")
    value = validated(value, typing.get_type_hints(type(config), localns={"torch": torch})[field], f"{FIELD}.{name}")
    if field == "image_size" and not isinstance(value, int):
        _refuse(name, f"expected one number, the side of a square image in pixels, got {value}")
    if field.endswith(("_act", "activation")) and isinstance(value, str) and value not in ACT2FN:
        hint = did_you_mean(value, ACT2FN) or f"; known: {', '.join(ACT2FN)}"
        _refuse(name, f"{value!r} is none of transformers' activations{hint}")
    _check_range(name, value, _numbers(config.to_dict().get(field)))
    return value


def _numbers(value: Any) -> list[int | float]:
    """Return the numbers in a field with one value or a list."""
    values = value if isinstance(value, list | tuple) else [value]
    return [n for n in values if isinstance(n, int | float) and not isinstance(n, bool)]


def _check_range(name: str, value: Any, before: Sequence[int | float]) -> None:
    """Refuse numbers below 1 or 0 where the checkpoint has none, and dropout rates that are no fraction."""
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
    """Refuse fields that conflict; some of them may be those of the checkpoint."""
    plain = config.to_dict()
    plain |= {name: plain.get(field) for name, field in config.attribute_map.items()}
    if "depths" in plain:
        stages = len(plain["depths"])
        for name in (*BY_STAGE, *STAGES):
            if name in plain and stages != (plain[name] if name in STAGES else len(plain[name])):
                _refuse(name, f"expected {stages} stages, as many as depths has numbers, got {plain[name]}")
    width, heads = plain.get("hidden_size"), plain.get("num_attention_heads")
    family = family_of(config)
    if family.staged and family.attention is not None:
        for stage_width, stage_heads in zip(stage_widths(config), plain["num_heads"], strict=True):
            _check_heads("embed_dim", stage_width, stage_heads)
    elif isinstance(width, int) and isinstance(heads, int):
        _check_heads("hidden_size", width, heads)
    side, patch = plain.get("image_size"), plain.get("patch_size")
    if isinstance(side, int) and isinstance(patch, int) and side % patch:
        _refuse("image_size", f"expected a multiple of patch_size {patch}, got {side}")


def _check_heads(name: str, width: int, heads: int) -> None:
    if width % heads:
        _refuse(name, f"expected a multiple of the {heads} attention heads, got {width}")
