"""Validation errors of pydantic as one line: the dotted field, what it expects, and the value."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen

from hf_finetune.errors import InputError
from hf_finetune.utils.hints import configs_in, is_union, unwrapped
from hf_finetune.utils.messages import did_you_mean

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema, ErrorDetails, ValidationError

NOUNS = {
    type(None): "null",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
}
OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "too_short", "value_error")


@dataclasses.dataclass(frozen=True)
class Check:
    """A condition on a field beyond its type and bounds: `Annotated[int, Check(is_even, "an even number")]`."""

    fits: Callable[[Any], bool]
    expected: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: Any) -> Any:
        if not self.fits(value):
            raise ValueError(self.expected)
        return value


def input_error(error: ValidationError, hint: Any, where: str) -> InputError:
    """Convert pydantic's error about a value of type `hint`, the field `where` ("": a whole recipe)."""
    # For a union pydantic reports an error for each member. The deepest location belongs to the member that the user
    # meant.
    details: ErrorDetails = max(error.errors(include_url=False), key=_weight)
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    field, hint, owner = _follow(hint, details["loc"], where)
    kind, value = details["type"], details["input"]
    names = ", ".join(m.__name__ for m in configs_in(hint))
    if kind == "unexpected_keyword_argument":
        return no_such_field(field, [f.name for f in dataclasses.fields(owner)])
    if kind in ("missing", "missing_argument"):
        return InputError(f"{field}: this field is needed by {owner.__name__}")
    if kind == "union_tag_not_found" and isinstance(value, dict):
        return InputError(f"{field}.type: this field is needed, one of {names}")
    if kind == "union_tag_invalid":
        return InputError(f"{field}.type: expected one of {names}, got {details['ctx']['tag']!r}")
    if kind == "finite_number":
        return InputError(f"{field}: expected a finite number, got {value!r}")
    expected = expectation(hint, of_range=kind in OUT_OF_RANGE)
    return InputError(f"{field or 'recipe'}: expected {expected}, got {value!r}")


def _weight(details: ErrorDetails) -> tuple[int, bool]:
    return len(details["loc"]), details["type"] == "unexpected_keyword_argument"


def no_such_field(field: str, known: Sequence[str]) -> InputError:
    """Return the error for an unknown field, with the nearest known one."""
    remedy = did_you_mean(field.rpartition(".")[2], known) or f"; known fields: {', '.join(known)}"
    return InputError(f"{field}: no such field{remedy}")


def _follow(hint: Any, location: Iterable[int | str], where: str) -> tuple[str, Any, Any]:
    """Follow a location of pydantic through nested types. Return the dotted field, its type and its config class."""
    owner = None
    for step in location:
        bare = without_null(hint)
        if is_union(bare):
            # The step names a member of the union, which is not part of the field's name.
            label = str(step).partition("[")[0]
            member = next((o for o, _ in map(unwrapped, typing.get_args(bare)) if _label(o) == label), None)
            if member is None:
                break
            hint = member
        elif dataclasses.is_dataclass(bare):
            owner, names = bare, [f.name for f in dataclasses.fields(bare)]
            name = names[step] if isinstance(step, int) and step < len(names) else str(step)
            where = f"{where}.{name}" if where else name
            hint = typing.get_type_hints(bare, include_extras=True).get(name, Any)
        elif typing.get_origin(bare) is dict:
            where, hint = f"{where}.{step}", typing.get_args(bare)[1]
        elif isinstance(step, int):
            where, hint = f"{where}[{step}]", (typing.get_args(bare) or (Any,))[0]
    return where, hint, owner


def without_null(hint: Any) -> Any:
    """Strip the annotations and `| None` from a type."""
    bare, _ = unwrapped(hint)
    options = _options(bare)
    return without_null(options[0]) if len(options) == 1 else bare


def _options(hint: Any) -> list[Any]:
    """Return the members of a union except null. Any other type has none."""
    return [option for option in typing.get_args(hint) if option is not type(None)] if is_union(hint) else []


def _label(option: Any) -> str:
    """Return pydantic's name of a member of a union that is a config or a tuple."""
    if typing.get_origin(option) is tuple:
        return "tuple"
    return option.__name__ if isinstance(option, type) and dataclasses.is_dataclass(option) else ""


def expectation(hint: Any, *, of_range: bool = False) -> str:
    """Describe what a field of this type expects. With `of_range`, give only its bounds if they suffice."""
    bare, annotations = unwrapped(hint)
    if of_range and len(options := _options(bare)) == 1:
        return expectation(options[0], of_range=True)
    checks = [a.expected for a in annotations if isinstance(a, Check)]
    if checks:
        return checks[-1]
    noun, bounds = _noun(bare), _bounds(annotations)
    if not bounds:
        return noun
    if of_range and not bounds.startswith("above"):
        return bounds
    return f"{noun} {bounds}" if bounds.startswith("above") else f"{noun}, {bounds}"


def _noun(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if is_union(hint):
        return " or ".join(dict.fromkeys(expectation(option) for option in arguments))
    if dataclasses.is_dataclass(hint):
        return "a mapping of fields"
    if origin is tuple and arguments[-1] is not ...:
        return f"a list of {len(arguments)}, each {expectation(arguments[0])}"
    if origin is tuple:
        configs = configs_in(hint)
        if configs:
            return f"a list such as [{{type: {configs[0].__name__}, ...}}]"
        return f"a list, each {expectation(arguments[0])}"
    return NOUNS.get(origin or hint, str(hint))


def _bounds(annotations: Iterable[Any]) -> str:
    low, high = "", ""
    for bound in (part for a in annotations for part in (a if isinstance(a, Interval) else (a,))):
        match bound:
            case Gt(value):
                low = f"above {_number(value)}"
            case Ge(value) | MinLen(value):
                low = f"at least {_number(value)}"
            case Lt(value):
                high = f"below {_number(value)}"
            case Le(value):
                high = f"at most {_number(value)}"
    if low.startswith("at least") and high.startswith("at most"):
        return f"{low.removeprefix('at least ')} to {high.removeprefix('at most ')}"
    return f"{low} and {high}" if low and high else {"at least 0": "0 or more"}.get(low, low) or high


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
