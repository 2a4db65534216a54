"""Frozen dataclasses to plain values and back: recipe.json, YAML files and the card all go through here.

Only classes that a field's own type names are ever built, so a file can set values but never choose code.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
import os
import tempfile
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hf_finetune.errors import InputError

ADAPTERS = (
    *("LORA", "ADALORA", "IA3", "VERA", "OFT", "BOFT", "LOHA", "LOKR", "HRA", "FOURIERFT", "RANDLORA"),
    *("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"),
)
"""PEFT types that a field can hold a config of; which of them fits a family is told by `models.peft.compatibility`."""


def yaml_value(text: str) -> Any:
    """What a piece of YAML says, in plain values.

    Raises:
        ValueError: it is no YAML, or a mapping has a key twice.
    """
    import yaml

    class EachKeyOnce(yaml.SafeLoader):
        """Of two equal keys YAML would take the last and say nothing."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for i, key in enumerate(keys):
                if key.value in [earlier.value for earlier in keys[:i]]:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, EachKeyOnce)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def to_plain(value: Any) -> Any:
    """Return `value` as dicts, lists, numbers, strings and None.

    A member of a union of dataclasses, and of a tuple of operations, carries its class name under `type`; a PEFT config is
    written as PEFT writes it.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value).__module__.startswith("peft."):
            return _sorted_plain({k: v for k, v in value.to_dict().items() if v is not None})
        hints = typing.get_type_hints(type(value))
        plain = {}
        for f in dataclasses.fields(value):
            item, members = getattr(value, f.name), operations(hints[f.name])
            if isinstance(item, tuple | list) and members:
                plain[f.name] = [{"type": type(member).__name__, **to_plain(member)} for member in item]
            elif type(item) in members and len(members) > 1:
                plain[f.name] = {"type": type(item).__name__, **to_plain(item)}
            else:
                plain[f.name] = to_plain(item)
        return plain
    return _sorted_plain(value)


def _sorted_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _sorted_plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    if isinstance(value, enum.Enum):
        return _sorted_plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def merge(base: Any, changes: dict[str, Any], where: str = "") -> Any:
    """Return the dataclass `base` with the fields of `changes` (nested dicts, as YAML gives them) replaced.

    Raises:
        InputError: for an unknown field (with the nearest known one) or a value of the wrong type, by its dotted name.
    """
    return dataclasses.replace(base, **_updates(type(base), vars(base), changes, where))


def _updates(kind: type, current: dict[str, Any], changes: Any, where: str) -> dict[str, Any]:
    """Values for the fields of `kind` that `changes` names."""
    if not isinstance(changes, dict):
        raise InputError(f"{where or 'recipe'}: expected a mapping of fields, got {changes!r}")
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}
    updates = {}
    for key, value in changes.items():
        dotted = f"{where}.{key}" if where else str(key)
        name = str(key).replace("-", "_")
        if name not in known:
            raise _no_such_field(dotted, name, known)
        updates[name] = _parse(value, hints[name], current.get(name), dotted)
    return updates


def _no_such_field(dotted: str, name: str, known: Iterable[str]) -> InputError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known fields: {', '.join(known)}"
    return InputError(f"{dotted}: no such field; {hint}")


def checked(value: Any, hint: Any, where: str) -> Any:
    """`value` as a field of type `hint` takes it: a whole number or a number in text is a float where one is wanted.

    Raises:
        InputError: a value of another type, by the name `where`.
    """
    return _parse(value, hint, None, where)


def _parse(value: Any, hint: Any, current: Any, where: str) -> Any:
    element = _element(hint)
    if element is not None and isinstance(value, list | tuple):
        return tuple(_parse(item, element, None, f"{where}[{i}]") for i, item in enumerate(value))
    if typing.get_origin(hint) is tuple and isinstance(value, list | tuple) and element is None:
        parts = typing.get_args(hint)
        if len(value) != len(parts):
            raise InputError(f"{where}: expected {_spell(hint)}, got {value!r}")
        return tuple(
            _parse(item, part, None, f"{where}[{i}]") for i, (item, part) in enumerate(zip(value, parts, strict=True))
        )
    members = () if element is not None else operations(hint)
    if members and _wants_float(hint) and not isinstance(value, dict):
        # A number, or what changes it.
        members = []
    if members and value is not None:
        if isinstance(value, str) and len(members) > 1:
            # A bare name: that operation with its defaults.
            value = {"type": value}
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected a mapping of fields, got {value!r}")
        value = dict(value)
        named = value.pop("type", None)
        if named is None:
            if len(members) > 1 and current is None:
                raise InputError(f"{where}.type: this field is needed, one of {', '.join(m.__name__ for m in members)}")
            kind = type(current) if type(current) in members else members[0]
        else:
            kind = next((m for m in members if m.__name__ == named), None)
            if kind is None:
                raise InputError(
                    f"{where}.type: expected one of {', '.join(m.__name__ for m in members)}, got {named!r}"
                )
        return merge(current, value, where) if type(current) is kind else _build(kind, value, where, current)
    if hint is Any:
        return None if value is None else _peft_config(value, current, where)
    if _fits(value, hint):
        return float(value) if _wants_float(hint) and isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(value, str) and _wants_float(hint):
        # YAML reads 1e-4 as text: a number all the same.
        try:
            return float(value)
        except ValueError:
            pass
    raise InputError(f"{where}: expected {_spell(hint)}, got {value!r}")


def _build(kind: type, value: dict[str, Any], where: str, replaced: Any) -> Any:
    """A `kind` of these fields, in place of what was there (None: nothing)."""
    fields = dataclasses.fields(kind)
    updates = _updates(kind, {f.name: f.default for f in fields}, value, where)
    for f in fields:
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in updates:
            instead = "" if replaced is None else f" by {kind.__name__}; the recipe has {type(replaced).__name__}"
            raise InputError(f"{where}.{f.name}: this field is needed{instead}")
    return kind(**updates)


def _peft_config(value: Any, current: Any, where: str) -> Any:
    """A PEFT config by its type and fields; by fields alone the one that there is, with these of its own."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    if isinstance(value, str):
        # A bare name: that method with PEFT's defaults.
        value = {"peft_type": value}
    if not isinstance(value, dict) or ("peft_type" not in value and current is None):
        raise InputError(f"{where}: expected a PEFT config like {{peft_type: LORA, ...}}, or its type, got {value!r}")
    fields = dict(value)
    name = str(fields.pop("peft_type", None) or current.peft_type.value)
    if name not in ADAPTERS:
        raise InputError(f"{where}.peft_type: expected one of {', '.join(ADAPTERS)}, got {name!r}")
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[name]
    _check_peft_fields(kind, fields, where)
    try:
        if "peft_type" not in value:
            return dataclasses.replace(current, **fields)
        if name == "ADALORA":
            # It asks for the steps of the run, which are known later, see `models.peft.adapters`.
            phases = [fields.get(n, 0) for n in ("tinit", "tfinal")]
            fields = {"total_step": 1 + sum(p for p in phases if isinstance(p, int)), **fields}
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def _check_peft_fields(kind: type, fields: dict[str, Any], where: str) -> None:
    """What PEFT would say less clearly, or not before it computes: a misspelt field, text in place of a number."""
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    for name, value in fields.items():
        if name not in known:
            raise _no_such_field(f"{where}.{name}", name, known)
        # Whole numbers stand in its hints where it takes any (lora_alpha).
        expected = float if hints[name] is int else hints[name]
        if expected in (float, bool) and not _fits(value, expected):
            raise InputError(f"{where}.{name}: expected {_spell(expected)}, got {value!r}")


def spelled(operation: Any) -> str:
    """An operation as Python has it, without the fields that were left at their defaults; so are those that it is made of."""
    if isinstance(operation, tuple):
        inner = ", ".join(map(spelled, operation))
        return f"({inner},)" if len(operation) == 1 else f"({inner})"
    if not dataclasses.is_dataclass(operation):
        return repr(operation)
    fields = ((f, getattr(operation, f.name)) for f in dataclasses.fields(operation))
    given = ", ".join(f"{f.name}={spelled(value)}" for f, value in fields if value != f.default)
    return f"{type(operation).__name__}({given})"


def operations(hint: Any) -> list[type]:
    """The dataclasses that a field of type `hint` can hold: members of its union, or of the union that its tuple is of."""
    element = _element(hint)
    hint = hint if element is None else element
    arguments = typing.get_args(hint) if _is_union(hint) else (hint,)
    return [a for a in arguments if isinstance(a, type) and dataclasses.is_dataclass(a)]


def _element(hint: Any) -> Any:
    """What a tuple of any length is of (`tuple[float, ...]`); None for other types."""
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    tuples = [typing.get_args(o) for o in options if typing.get_origin(o) is tuple]
    return tuples[0][0] if tuples and len(tuples[0]) == 2 and tuples[0][1] is ... else None


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _wants_float(hint: Any) -> bool:
    return hint is float or float in typing.get_args(hint)


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if _is_union(hint):
        return any(_fits(value, a) for a in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if isinstance(origin, type):
        return isinstance(value, origin)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if _is_union(hint):
        return " or ".join(dict.fromkeys(_spell(a) for a in typing.get_args(hint)))
    if dataclasses.is_dataclass(hint):
        return "a mapping of fields"
    if typing.get_origin(hint) is tuple and _element(hint) is None:
        return f"a list of {len(typing.get_args(hint))}, each {_spell(typing.get_args(hint)[0])}"
    if _element(hint) is not None:
        members = operations(hint)
        example = f", such as [{{type: {members[0].__name__}, ...}}]" if members else ""
        return f"a list, each {_spell(_element(hint))}{example}"
    names = {type(None): "null", str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    names |= {dict: "a mapping", list: "a list"}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "text"
    return names.get(typing.get_origin(hint) or hint, str(hint))


def flatten(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict of dotted names, the form in which two recipes are compared."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8, atomically: see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either its old or its whole new content, whenever the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically. NaN is refused: JSON has no such number."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
