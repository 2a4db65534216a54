"""Inspection of the type hints of config fields."""

import dataclasses
import types
import typing
from typing import Any


def configs_in(hint: Any) -> list[type]:
    """Return the config classes that a field of this type can hold, directly, in a union, or in a tuple."""
    hint, _ = unwrapped(hint)
    if is_union(hint):
        return [member for option in typing.get_args(hint) for member in configs_in(option)]
    if typing.get_origin(hint) is tuple:
        return configs_in(typing.get_args(hint)[0])
    return [hint] if isinstance(hint, type) and dataclasses.is_dataclass(hint) else []


def is_union(hint: Any) -> bool:
    """Whether a type is a union, `A | B`."""
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Split an `Annotated` type into the bare type and its annotations."""
    return (hint.__origin__, hint.__metadata__) if typing.get_origin(hint) is typing.Annotated else (hint, ())


def configs_below(config: type) -> dict[str, type]:
    """Return a config class and all config classes reachable through its fields, by name."""
    reached: dict[str, type] = {}
    pending = [config]
    while pending:
        kind = pending.pop()
        if kind.__name__ not in reached:
            reached[kind.__name__] = kind
            for hint in typing.get_type_hints(kind, include_extras=True).values():
                pending += configs_in(hint)
    return reached
