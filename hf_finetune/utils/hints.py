"""Type hints of fields: what is in a union, in a tuple, below annotations."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any


def configs_in(hint: Any) -> list[type]:
    """Return the configs that a field of type `hint` holds: members of its union, or of its tuple's union."""
    hint, _ = unwrapped(hint)
    if is_union(hint):
        return [member for option in typing.get_args(hint) for member in configs_in(option)]
    if typing.get_origin(hint) is tuple:
        return configs_in(typing.get_args(hint)[0])
    return [hint] if isinstance(hint, type) and dataclasses.is_dataclass(hint) else []


def is_union(hint: Any) -> bool:
    """Whether a type is `A | B`."""
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without its annotations, and these."""
    annotations: tuple[Any, ...] = ()
    while hasattr(hint, "__metadata__"):
        hint, annotations = hint.__origin__, (*hint.__metadata__, *annotations)
    return hint, annotations


def configs_below(config: type) -> dict[str, type]:
    """Return a config and all that its fields can hold, however deep, by name."""
    found: dict[str, type] = {}
    waiting = [config]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ not in found:
            found[kind.__name__] = kind
            for hint in typing.get_type_hints(kind, include_extras=True).values():
                waiting += configs_in(hint)
    return found
