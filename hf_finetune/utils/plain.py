"""Configs as plain values and back: what recipe.json, YAML files and the card hold of them."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from hf_finetune.errors import InputError
from hf_finetune.utils.config import serialized, validated

T = TypeVar("T")


def to_plain(config: Any) -> dict[str, Any]:
    """Return a config as dicts, lists, numbers, strings and None.

    A member of a union of configs carries its class name under `type`; a PEFT config is written as PEFT writes it.
    """
    return serialized(config)


def merge(base: T, changes: Any, where: str = "") -> T:
    """Return the config `base` with the fields of `changes` (nested mappings, as YAML has them) in place of its own.

    Where a field holds one of several configs, changes that name no `type` are changes of the one that is there.

    Raises:
        InputError: for an unknown field (with the nearest known one) or a value that does not fit, by its dotted name.
    """
    if not isinstance(changes, dict):
        raise InputError(f"{where or 'recipe'}: expected a mapping of fields, got {changes!r}")
    fields = dict(vars(base))
    for key, value in changes.items():
        name = str(key).replace("-", "_")
        fields[name] = _changed(fields.get(name), value, f"{where}.{name}" if where else name)
    return validated(fields, type(base), where)


def _changed(current: Any, value: Any, where: str) -> Any:
    """The value of a field that holds `current`; a mapping changes a config, and anything else takes its place."""
    if not dataclasses.is_dataclass(current) or not isinstance(value, dict):
        return value
    if type(current).__module__.startswith("peft."):
        own = {f.name: getattr(current, f.name) for f in dataclasses.fields(current) if f.init}
        return value if "peft_type" in value else own | value
    changes = dict(value)
    name = type(current).__name__
    return merge(current, changes, where) if changes.pop("type", name) == name else value


def flatten(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one dict of dotted names, the form in which two recipes are compared."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def short_repr(config: Any) -> str:
    """Return a config as Python writes it, without the fields that are at their defaults; so are the configs in it."""
    if isinstance(config, tuple):
        inner = ", ".join(map(short_repr, config))
        return f"({inner},)" if len(config) == 1 else f"({inner})"
    if not dataclasses.is_dataclass(config):
        return repr(config)
    values = ((f, getattr(config, f.name)) for f in dataclasses.fields(config))
    changed = ", ".join(f"{f.name}={short_repr(value)}" for f, value in values if value != f.default)
    return f"{type(config).__name__}({changed})"
