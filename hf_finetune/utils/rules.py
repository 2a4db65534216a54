"""Rules between the fields of a recipe: combinations that are refused, and options that have no effect.

Each package lists its rules in a `rules.py`, typed by a Protocol of the sections that they read. `config.rules` applies
the rules of all packages.
"""

import dataclasses
import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hf_finetune.errors import InputError
from hf_finetune.utils.plain import short_repr

R = TypeVar("R", contravariant=True)


@dataclass(frozen=True)
class Conflict(Generic[R]):
    """A field that does not go together with other fields, unless it is at its default."""

    field: str
    """Dotted name, as in a YAML file."""
    expected: str | Callable[[R], str]
    """Values that the field may have instead."""
    when: Callable[[R], object] = lambda recipe: True
    """Whether a recipe has this conflict: any true value."""
    value: Callable[[R], object] | None = None
    """Value to refuse and to show, where the field's default conflicts, too. None: the field's value."""

    def refuse(self, recipe: R) -> None:
        """Refuse a recipe that has this conflict.

        Raises:
            InputError: naming the field, what is expected, and the value.
        """
        if self.when(recipe) and (self.value or not _is_default(recipe, self.field)):
            value = self.value(recipe) if self.value else _value(recipe, self.field)
            expected = self.expected if isinstance(self.expected, str) else self.expected(recipe)
            raise InputError(f"{self.field}: expected {expected}, got {short_repr(value)}")


@dataclass(frozen=True)
class Unused(Generic[R]):
    """An option that has no effect together with other fields: no mistake, but worth a note."""

    field: str
    """Dotted name."""
    reason: str
    when: Callable[[R], object]
    """Whether the option has no effect in a recipe: any true value."""


def only_when(condition: Callable[[R], object], *conflicts: Conflict[R]) -> tuple[Conflict[R], ...]:
    """Return the conflicts, restricted to recipes that meet a condition."""

    def both(when: Callable[[R], object]) -> Callable[[R], object]:
        return lambda recipe: condition(recipe) and when(recipe)

    return tuple(dataclasses.replace(conflict, when=both(conflict.when)) for conflict in conflicts)


def unused_options(recipe: R, options: Iterable[Unused[R]]) -> tuple[str, ...]:
    """Return a note for each option that is not at its default and has no effect in this recipe."""
    notes: dict[str, str] = {}
    for option in options:
        if option.when(recipe) and not _is_default(recipe, option.field):
            notes.setdefault(option.field, f"{option.field} has no effect here: {option.reason}")
    return tuple(notes.values())


def _is_default(recipe: Any, field: str) -> bool:
    section, _, name = field.rpartition(".")
    config = _value(recipe, section)
    if isinstance(config, dict):
        return False
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    return bool(_value(config, name) == defaults[name])


def _value(recipe: Any, field: str) -> Any:
    value = recipe
    for name in filter(None, field.split(".")):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value.value if isinstance(value, enum.Enum) else value
