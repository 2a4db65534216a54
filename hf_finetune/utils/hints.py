"""Inspection of config classes: the types and the docstrings of their fields."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from functools import cache
from typing import Any


def configs_in(hint: Any) -> list[type]:
    """Return the config classes that a field of this type can hold, directly, in a union, or in a tuple."""
    hint, _ = unwrapped(hint)
    if is_union(hint):
        return [member for option in typing.get_args(hint) for member in configs_in(option)]
    if typing.get_origin(hint) is tuple:
        return configs_in(typing.get_args(hint)[0])
    return [hint] if isinstance(hint, type) and dataclasses.is_dataclass(hint) else []


def is_choice(hint: Any) -> bool:
    """Whether a field of this type holds one of several configs, or one or None, which files name by its class."""
    hint, _ = unwrapped(hint)
    configs = configs_in(hint)
    return len(configs) > 1 or (bool(configs) and type(None) in typing.get_args(hint))


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


@cache
def field_docstrings(config: type) -> dict[str, str]:
    """Return the docstring below each field of a class and of its base classes; of none without the source code."""
    docstrings: dict[str, str] = {}
    for base in reversed(config.__mro__[:-1]):
        try:
            definition = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except OSError:
            continue
        assert isinstance(definition, ast.ClassDef)
        for field, below in itertools.pairwise(definition.body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docstrings[name] = " ".join(text.split())
    return docstrings
