"""Configs: frozen dataclasses whose fields are held to their types and bounds.

pydantic checks a config where it is made, in Python as from a file. A field that does not fit is an `InputError` of
one line. Bounds stand beside the fields, as annotations: `p: Probability = 0.1`. Types are strict: text is no number,
and 1 is not true. But a whole number is a number, a list is a tuple, and a mapping is a config, as YAML and JSON write
them.

pydantic is imported, and its schema of a class built, when a config is first made with arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache, partial, wraps
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, dataclass_transform, get_args, overload

import tyro
from annotated_types import Ge, Gt, Interval

from hf_finetune.utils.config_errors import Check, input_error
from hf_finetune.utils.hints import configs_in

if TYPE_CHECKING:
    from pydantic import ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

T = TypeVar("T")


def between(low: float, high: float) -> Interval:
    """Return the bound of a field from `low` to `high`, both of them included: `Annotated[int, between(0, 255)]`."""
    return Interval(ge=low, le=high)


def flag(*aliases: str) -> Any:
    """A nested field that also has short names on the command line (`--epochs` for `--train.num-train-epochs`)."""
    return tyro.conf.arg(aliases=aliases)


Positive: TypeAlias = Annotated[float, Gt(0)]
NonNegative: TypeAlias = Annotated[float, Ge(0)]
Probability: TypeAlias = Annotated[float, between(0, 1)]
Fraction: TypeAlias = Annotated[float, Interval(ge=0, lt=1)]
"""A part of a whole, and never all of it."""
OpenFraction: TypeAlias = Annotated[float, Interval(gt=0, lt=1)]
"""A part of a whole, neither nothing nor all of it."""
Count: TypeAlias = Annotated[int, Ge(1)]
CountOrZero: TypeAlias = Annotated[int, Ge(0)]
Seed: TypeAlias = Annotated[int, between(0, 2**32 - 1)]
MaxSteps: TypeAlias = Annotated[
    int, Check(lambda n: n == -1 or n >= 1, "at least 1, or -1 for as many as the epochs have")
]


@overload
def configclass(cls: type[T], /) -> type[T]: ...
@overload
def configclass(*, kw_only: bool = False) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def configclass(cls: type[T] | None = None, /, *, kw_only: bool = False) -> Any:
    """Make a class a frozen dataclass that refuses what its fields cannot hold.

    Raises:
        InputError: when the class is called with a value that does not fit; naming field, expectation and value.
    """

    return partial(_config, kw_only=kw_only) if cls is None else _config(cls, kw_only=kw_only)


STRICT: ConfigDict = {"strict": True, "extra": "forbid", "allow_inf_nan": False, "arbitrary_types_allowed": True}


class ByType:
    """A member of a union of configs. Files name it under `type`, `{type: SwapWords, p: 0.1}`, or by its name alone."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        choices: dict[Any, CoreSchema] = {}
        for member in configs_in(source):
            named = core_schema.wrap_serializer_function_ser_schema(_with_type)
            choices[member.__name__] = core_schema.no_info_before_validator_function(
                _without_type, handler.generate_schema(member), serialization=named
            )
        union = core_schema.tagged_union_schema(choices, _type_of)
        return core_schema.nullable_schema(union) if type(None) in get_args(source) else union

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A member by its name alone, or as a mapping, to which `config.json_schema` adds `type`."""
        nullable = schema["type"] == "nullable"
        union: Any = schema["schema"] if nullable else schema
        members = [handler(choice) for choice in union["choices"].values()]
        return {"anyOf": [{"enum": list(union["choices"])}, *members, *([{"type": "null"}] if nullable else [])]}


Choice = Annotated[T, tyro.conf.AvoidSubcommands, ByType()]
"""One member of a union of configs."""
Operations = Annotated[tuple[Annotated[T, ByType()], ...], tyro.conf.AvoidSubcommands]
"""Members of a union of configs, in order."""


def validated(value: Any, hint: Any, where: str) -> Any:
    """Return `value` as a field of type `hint` takes it.

    Raises:
        InputError: it does not fit, said of the field `where`.
    """
    from pydantic_core import ValidationError

    try:
        return _adapter(hint).validate_python(value)
    except ValidationError as error:
        raise input_error(error, hint, where) from None


def serialized(config: Any) -> dict[str, Any]:
    """Return a config in plain values, see `utils.plain.to_plain`."""
    kind: Any = type(config)
    return _adapter(kind).dump_python(config, mode="json", fallback=str)


def _config(cls: Any, *, kw_only: bool) -> Any:
    dataclasses.dataclass(frozen=True, kw_only=kw_only)(cls)
    unchecked = cls.__init__

    @wraps(unchecked)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if not args and not kwargs:
            unchecked(self)  # defaults fit, a test sees to it
            return
        from pydantic_core import ArgsKwargs, ValidationError

        try:
            _adapter(cls).validator.validate_python(ArgsKwargs(args, kwargs), self_instance=self)
        except ValidationError as error:
            raise input_error(error, cls, cls.__name__) from None

    cls.__init__ = __init__
    cls.__pydantic_config__ = STRICT
    cls.__get_pydantic_core_schema__ = classmethod(_core_schema)
    return cls


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    if dataclasses.is_dataclass(hint):
        return TypeAdapter(hint)
    return TypeAdapter(Annotated[hint, _PlainValues()], config=STRICT)


class _PlainValues:
    """What a file can say of a type that is no config."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _accept_lists(schema)
        return schema


def _core_schema(cls: type, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    """pydantic's schema of a config: a mapping is one in strict mode too, and a list a tuple."""
    schema: Any = handler(source)
    schema["strict"] = False
    for field in schema["schema"]["fields"]:
        _accept_lists(field["schema"])
    return schema


def _accept_lists(schema: Any) -> None:
    if schema["type"] == "tuple":
        schema["strict"] = False
    inner = [schema.get("schema"), *schema.get("items_schema", ()), *schema.get("choices", ())]
    for part in inner:
        if isinstance(part, dict) and part["type"] != "dataclass":
            _accept_lists(part)


def _type_of(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    return value.get("type") if isinstance(value, dict) else type(value).__name__


def _without_type(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: part for name, part in value.items() if name != "type"}
    return {} if isinstance(value, str) else value


def _with_type(value: Any, serialize: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    return {"type": type(value).__name__, **serialize(value)}
