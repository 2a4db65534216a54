"""Techniques without evidence of a gain, as their docstrings mark them for help, schema, docs and the notes of a run.

The mark is a sentence of the docstring of a field or of a config, its last one:
`Experimental: worse than fine-tuning alone, once (docs/benchmarks.md#continued-pretraining).` After "Experimental
without data.unlabeled:" it holds only while that field is empty.
"""

import dataclasses
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hf_finetune.utils.hints import configs_below, configs_in, field_docstrings

_MARK = re.compile(
    r"Experimental(?: without (?P<unless>[\w.]+))?: (?P<measured>[^()]+) \((?P<page>docs/[\w/]+\.md[\w#-]*)\)"
)


@dataclass(frozen=True)
class Mark:
    """What was measured of a technique without evidence of a gain."""

    text: str
    """The whole sentence, for help."""
    measured: str
    """What was measured, as a clause."""
    page: str
    """Page and section of the docs."""
    unless: str | None = None
    """Dotted name of the field that has to be empty."""

    def note(self, name: str) -> str:
        """Return the note of a run that uses the technique `name`."""
        without = f" without {self.unless}" if self.unless else ""
        return f"{name} is experimental{without}: {self.measured}; see {self.page}"


def mark_in(docstring: str | None) -> Mark | None:
    """Return the mark in a docstring, or None."""
    match = _MARK.search(" ".join((docstring or "").split()))
    return match and Mark(match[0], match["measured"], match["page"], match["unless"])


def marks_below(config: type) -> dict[str, Mark]:
    """Return the marks of a config class and of all that are reachable through its fields, by `Class` or
    `Class.field`."""
    marks: dict[str, Mark | None] = {}
    for name, kind in configs_below(config).items():
        marks[name] = mark_in(kind.__doc__)
        marks |= {f"{name}.{field}": mark_in(text) for field, text in field_docstrings(kind).items()}
    return {name: mark for name, mark in marks.items() if mark is not None}


def marks_of_field(config: type, field: str) -> list[Mark]:
    """Return the different marks of a field below a config class, by its dotted name: `data.augment` is two fields."""
    owners, (*path, name) = [config], field.split(".")
    for part in path:
        owners = [kind for owner in owners for kind in configs_in(typing.get_type_hints(owner).get(part))]
    marks = (mark_in(field_docstrings(owner).get(name)) for owner in owners)
    return list(dict.fromkeys(mark for mark in marks if mark is not None))


def experimental_notes(config: Any, prefix: str = "") -> tuple[str, ...]:
    """Return a note for each marked field of a config that is not at its default, and each marked member it holds.

    Args:
        prefix: goes before the names; `--` for flags.
    """
    notes = {}
    for name, mark in _used_marks(config, prefix):
        if not (mark.unless and _value(config, mark.unless)):
            notes[name] = mark.note(name)
    return tuple(notes.values())


def _used_marks(config: Any, prefix: str) -> Iterator[tuple[str, Mark]]:
    kind: Any = type(config)
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if value == field.default:
            continue
        if mark := mark_in(field_docstrings(kind).get(field.name)):
            yield name, mark
        for part in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(part):
                if mark := mark_in(type(part).__doc__):
                    yield f"{name}: {type(part).__name__}", mark
                yield from _used_marks(part, f"{name}.")


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config
