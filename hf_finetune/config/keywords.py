"""Fields of a recipe as keywords of Python: short names and sections, resolved from the types of the fields."""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import numpy as np

from hf_finetune.config.aliases import FIELDS, NAMES, current
from hf_finetune.config.recipe import blank_recipe
from hf_finetune.errors import InputError
from hf_finetune.utils.hints import configs_in, unwrapped
from hf_finetune.utils.messages import did_you_mean
from hf_finetune.utils.plain import merge

T = TypeVar("T", bound=Any)

# Sections whose fields continue those of others, or are of what comes after the run: they are named with the section.
SECONDARY = ("pretrain", "compress")


def with_keywords(recipe: T, keywords: Mapping[str, Any]) -> T:
    """Return a recipe with fields set by keyword.

    Args:
        recipe: the fields that stay.
        keywords: values by name. A name is that of a section (`train=Train(seed=1)`, `optim={"lookahead": True}`), of a
            short flag (`epochs=3`), of a field (`learning_rate=1e-4`), or dotted (`{"train.learning_rate": 1e-4}`).

    Raises:
        InputError: no such name, a name of several fields, or a value that does not fit.
    """
    names = field_names(recipe)
    sections: dict[str, Any] = {}
    fields: list[tuple[str, Any]] = []
    for name, value in keywords.items():
        value = _plain(value)
        dotted = resolve(name, names, is_section=not isinstance(value, str | int | float))
        if "." in dotted:
            fields.append((dotted, value))
        else:
            sections[dotted] = value
    recipe = _merged(recipe, sections)
    teacher = dict(fields).get("objective.teacher")
    if teacher is not None:
        recipe = recipe.with_teacher(teacher)
    for dotted, value in fields:
        section, _, field = dotted.partition(".")
        for part in reversed(field.split(".")):
            value = {part: value}
        recipe = _merged(recipe, {section: value})
    return recipe


def _merged(recipe: T, changes: dict[str, Any]) -> T:
    return merge(recipe, current(changes))


def resolve(name: str, names: Mapping[str, list[str]], *, is_section: bool = False) -> str:
    """Return the dotted field that a keyword names.

    Args:
        names: see `field_names`.
        is_section: prefer a section to the flag of the same name, as `model`.

    Raises:
        InputError: there is none, or there are several.
    """
    requested, name = name, FIELDS.get(name) or NAMES.get(name, name)
    if name not in names:
        hint = did_you_mean(requested, [*names, *NAMES]) or "; see hf_finetune.Recipe"
        raise InputError(f"{requested}: no such keyword{hint}")
    fields = names[name]
    if is_section and name in fields:
        return name
    if len(fields) > 1 and name in fields:
        fields = [field for field in fields if field != name]
    if len(fields) > 1:
        parts = [field.partition(".") for field in fields]
        spelled = " or ".join(f"{section}={{{field!r}: ...}}" for section, _, field in parts)
        raise InputError(f"{name}: several fields have this name; write {spelled}")
    return fields[0]


def check_keyword(name: str) -> None:
    """Check that a keyword names a field of a recipe, for texts or for images.

    Raises:
        InputError: see `resolve`.
    """
    resolve(name, _names_of_all(), is_section=True)


def shortest_keyword(dotted: str) -> str:
    """Return the name of a field without its sections, if that is a keyword for it."""
    name = dotted.rpartition(".")[2]
    return name if _names_of_all().get(name) == [dotted] else dotted


@cache
def _names_of_all() -> dict[str, list[str]]:
    return {**field_names(blank_recipe(images=True)), **field_names(blank_recipe(images=False))}


def field_names(recipe: Any) -> dict[str, list[str]]:
    """Return the dotted fields that each keyword may mean: more than one where a name is ambiguous.

    The flag of a field comes first; then the field that is nested least; then that of a section that is not
    `SECONDARY`. A section comes beside a flag of its name.
    """
    flags: dict[str, list[str]] = {}
    fields: dict[str, list[str]] = {}
    for dotted, hint in _fields(type(recipe), recipe):
        for name in _flags(hint):
            flags.setdefault(name.rpartition(".")[2], []).append(dotted)
        fields.setdefault(dotted.rpartition(".")[2], []).append(dotted)
        fields[dotted] = [dotted]
    names: dict[str, list[str]] = {}
    for name in {**fields, **flags}:
        candidates = list(dict.fromkeys(flags.get(name, []) or _first(fields[name])))
        section = [name] if name in fields and name not in candidates and fields[name][:1] == [name] else []
        names[name] = [*section, *candidates]
    return names


def short_flags(recipe: Any) -> set[str]:
    """Return the names of all fields' own short flags, such as `epochs`."""
    return {name for _, hint in _fields(type(recipe), recipe) for name in _flags(hint)}


def _flags(hint: Any) -> list[str]:
    aliases = [alias for meta in unwrapped(hint)[1] for alias in getattr(meta, "aliases", None) or ()]
    return [alias.removeprefix("--").replace("-", "_") for alias in aliases]


def _first(dotted: list[str]) -> list[str]:
    primary = [name for name in dotted if name.partition(".")[0] not in SECONDARY] or dotted
    least = min(name.count(".") for name in primary)
    return [name for name in primary if name.count(".") == least]


def _fields(config: type, value: Any = None, prefix: str = "") -> typing.Iterator[tuple[str, Any]]:
    """Yield dotted names and types of all fields below a config, those of its present data only."""
    for name, hint in typing.get_type_hints(config, include_extras=True).items():
        if typing.get_origin(hint) is typing.ClassVar:
            continue
        dotted = f"{prefix}{name}"
        yield dotted, hint
        members = configs_in(hint)
        if dotted == "data":
            members = [type(value.data)]
        if typing.get_origin(unwrapped(hint)[0]) is not tuple and (len(members) == 1 or dotted == "objective"):
            for member in members:
                yield from _fields(member, prefix=f"{dotted}.")


def _plain(value: Any) -> Any:
    """Return a path or a number of numpy as a string or a number."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if isinstance(value, np.generic) else value
