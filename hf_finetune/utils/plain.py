"""Conversion between configs and plain values, for recipe.json, YAML files and the card."""

import dataclasses
from typing import Any, TypeVar

from hf_finetune.errors import InputError
from hf_finetune.utils.config import type_adapter, validated

T = TypeVar("T")


def to_plain(config: Any) -> dict[str, Any]:
    """Return a config as dicts, lists, numbers, strings and None.

    A member of a union of configs has its class name under `type`; a PEFT config has the form of PEFT's `to_dict`.
    """
    kind: Any = type(config)
    return type_adapter(kind).dump_python(config, mode="json", fallback=str)


def merge(base: T, changes: Any, where: str = "") -> T:
    """Return a config updated by nested mappings of fields, as YAML has them.

    Where a field holds a member of a union, changes without a `type` update the present member.

    Args:
        where: dotted name of the config in its recipe, for messages.

    Raises:
        InputError: an unknown field, with the nearest known one, or an invalid value, by its dotted name.
    """
    if not isinstance(changes, dict):
        raise InputError(f"{where or 'recipe'}: expected a mapping of fields, got {changes!r}")
    fields = dict(vars(base))
    for key, value in changes.items():
        name = str(key).replace("-", "_")
        fields[name] = _changed(fields.get(name), value, f"{where}.{name}" if where else name)
    return validated(fields, type(base), where)


def _changed(current: Any, value: Any, where: str) -> Any:
    """Return the new value of a field: a mapping updates a config, anything else replaces it."""
    if not dataclasses.is_dataclass(current) or not isinstance(value, dict):
        return value
    if type(current).__module__.startswith("peft."):
        fields = {f.name: getattr(current, f.name) for f in dataclasses.fields(current) if f.init}
        return value if "peft_type" in value else fields | value
    changes = dict(value)
    name = type(current).__name__
    return merge(current, changes, where) if changes.pop("type", name) == name else value


def flatten(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts into one dict with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def short_repr(config: Any) -> str:
    """Return the repr of a config without the fields at their defaults, nested configs included."""
    if isinstance(config, tuple):
        inner = ", ".join(map(short_repr, config))
        return f"({inner},)" if len(config) == 1 else f"({inner})"
    if not dataclasses.is_dataclass(config):
        return repr(config)
    values = ((f, getattr(config, f.name)) for f in dataclasses.fields(config))
    changed = ", ".join(f"{f.name}={short_repr(value)}" for f, value in values if value != f.default)
    return f"{type(config).__name__}({changed})"
