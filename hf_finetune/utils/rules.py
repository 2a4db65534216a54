"""Rules between the fields of a recipe: combinations that are refused, and options that do nothing.

Each room lists its own in a `rules.py`; `config.rules` puts them together. A rule sees the whole recipe.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hf_finetune.errors import InputError
from hf_finetune.utils.plain import short_repr


@dataclass(frozen=True)
class Conflict:
    """A field whose value does not go with other fields."""

    field: str
    """Its dotted name, as in a YAML file."""
    exists: Callable[[Any], Any]
    """Whether a recipe has this conflict."""
    expected: str
    """What is expected instead. `{r}` is the recipe: "None with {r.method}"."""
    value: str | None = None
    """The property that has its value, where that is not the field itself."""

    def refuse(self, recipe: Any) -> None:
        """Refuse a recipe that has this conflict.

        Raises:
            InputError: it has; naming the field, what is expected, and the value.
        """
        if self.exists(recipe):
            value = short_repr(_value(recipe, self.value or self.field))
            raise InputError(f"{self.field}: expected {self.expected.format(r=recipe)}, got {value}")


@dataclass(frozen=True)
class Unused:
    """An option that does nothing with other fields: no mistake, but worth a line at the start."""

    field: str
    """Its dotted name."""
    is_idle: Callable[[Any], Any]
    """Whether it does nothing in a recipe."""
    reason: str


def both(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the condition that two conditions hold."""
    return lambda recipe: first(recipe) and second(recipe)


def unused_options(recipe: Any, table: Iterable[Unused]) -> tuple[str, ...]:
    """Return a note for each option that is not at its default and does nothing in this recipe."""
    notes: dict[str, str] = {}
    for option in table:
        if option.is_idle(recipe) and _is_set(recipe, option.field):
            notes.setdefault(option.field, f"{option.field} has no effect here: {option.reason}")
    return tuple(notes.values())


def _is_set(recipe: Any, field: str) -> bool:
    section, _, name = field.rpartition(".")
    holder = _value(recipe, section)
    default = {f.name: f.default for f in dataclasses.fields(holder)}[name]
    return _value(holder, name) != default


def _value(recipe: Any, field: str) -> Any:
    value = recipe
    for name in field.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value.value if isinstance(value, enum.Enum) else value
