"""Configs: frozen dataclasses that pydantic validates on construction, in Python as from a file.

An invalid field raises an `InputError` of one line. Bounds stand beside the fields, as annotations:
`p: Probability = 0.1`. Types are strict: text is not a number, and 1 is not true. But an integer is accepted as a
float, a list as a tuple, and a mapping as a config, as YAML and JSON write them.

pydantic is imported, and the schema of a class is built, when a config is first constructed with arguments.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, dataclass_transform, get_args

import tyro
from annotated_types import Ge, Gt, Interval

from hf_finetune.utils.config_errors import Check, input_error
from hf_finetune.utils.durations import EXPECTED, is_duration
from hf_finetune.utils.hints import configs_in

if TYPE_CHECKING:
    from pydantic import ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

T = TypeVar("T")


def between(low: float, high: float) -> Interval:
    """Return inclusive bounds of a field: `Annotated[int, between(0, 255)]`."""
    return Interval(ge=low, le=high)


def flag(*aliases: str) -> Any:
    """Give a nested field short flags: `--epochs` for `--train.num-train-epochs`."""
    return tyro.conf.arg(aliases=aliases)


Positive: TypeAlias = Annotated[float, Gt(0)]
Epochs: TypeAlias = Annotated[float, Interval(gt=0, le=1_000_000)]
NonNegative: TypeAlias = Annotated[float, Ge(0)]
Probability: TypeAlias = Annotated[float, between(0, 1)]
Fraction: TypeAlias = Annotated[float, Interval(ge=0, lt=1)]
"""Share below 1."""
OpenFraction: TypeAlias = Annotated[float, Interval(gt=0, lt=1)]
"""Share above 0 and below 1."""
Count: TypeAlias = Annotated[int, Ge(1)]
CountOrZero: TypeAlias = Annotated[int, Ge(0)]
Duration: TypeAlias = Annotated[str, Check(is_duration, EXPECTED)]
"""See `durations.parse_duration`."""
Seed: TypeAlias = Annotated[int, between(0, 2**32 - 1)]
MaxSteps: TypeAlias = Annotated[
    int, Check(lambda n: n == -1 or n >= 1, "at least 1, or -1 for as many as the epochs have")
]


STRICT: ConfigDict = {"strict": True, "extra": "forbid", "allow_inf_nan": False, "arbitrary_types_allowed": True}


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def configclass(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass that validates its fields.

    Raises:
        InputError: when the class is called with an invalid value; naming field, expectation and value.
    """
    config: Any = dataclasses.dataclass(frozen=True)(cls)
    unchecked = config.__init__

    @wraps(unchecked)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if not args and not kwargs:
            unchecked(self)  # a test checks the defaults
            return
        from pydantic_core import ArgsKwargs, ValidationError

        try:
            type_adapter(config).validator.validate_python(ArgsKwargs(args, kwargs), self_instance=self)
        except ValidationError as error:
            raise input_error(error, cls, cls.__name__) from None

    config.__init__ = __init__
    config.__pydantic_config__ = STRICT
    config.__get_pydantic_core_schema__ = classmethod(_core_schema)
    return config


def _core_schema(cls: type, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    """Return pydantic's schema of a config, which accepts mappings and lists in strict mode, too."""
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


class _AcceptsLists:
    """Annotation of a type that is not a config: it accepts lists as tuples."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _accept_lists(schema)
        return schema


@cache
def type_adapter(hint: Any) -> TypeAdapter[Any]:
    """Return pydantic's adapter of a config class, or of the type of a field."""
    from pydantic import TypeAdapter

    if dataclasses.is_dataclass(hint):
        return TypeAdapter(hint)
    return TypeAdapter(Annotated[hint, _AcceptsLists()], config=STRICT)


def validated(value: Any, hint: Any, where: str) -> Any:
    """Return a value converted to the type of a field.

    Raises:
        InputError: it does not fit; naming the field `where`.
    """
    from pydantic_core import ValidationError

    try:
        return type_adapter(hint).validate_python(value)
    except ValidationError as error:
        raise input_error(error, hint, where) from None


class ByType:
    """Annotation of a union of config classes. Files name a member as `{type: SwapWords, p: 0.1}`, or as `SwapWords`;
    `swap-words` is the same."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        choices: dict[Any, CoreSchema] = {}
        for member in configs_in(source):
            choices[member.__name__] = core_schema.no_info_before_validator_function(
                _without_type,
                handler.generate_schema(member),
                serialization=core_schema.wrap_serializer_function_ser_schema(_with_type),
            )
        names = {hyphenated(name): name for name in choices}
        union = core_schema.tagged_union_schema(choices, lambda value: _type_of(value, names))
        return core_schema.nullable_schema(union) if type(None) in get_args(source) else union

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema of a member: its name, or a mapping, to which `config.json_schema` adds `type`."""
        nullable = schema["type"] == "nullable"
        union: Any = schema["schema"] if nullable else schema
        members = [handler(choice) for choice in union["choices"].values()]
        names = dict.fromkeys([*union["choices"], *map(hyphenated, union["choices"])])
        return {"anyOf": [{"enum": list(names)}, *members, *([{"type": "null"}] if nullable else [])]}


Choice = Annotated[T, tyro.conf.AvoidSubcommands, ByType()]
"""A field that holds one member of a union of configs."""
Operations = Annotated[tuple[Annotated[T, ByType()], ...], tyro.conf.AvoidSubcommands]
"""A field that holds a tuple of members of a union of configs."""


def hyphenated(name: str) -> str:
    """Return the name of a class as flags have it: swap-words for SwapWords."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def _type_of(value: Any, names: Mapping[str, str]) -> str | None:
    """Return the name of a member; `names` has it by its hyphenated form."""
    kind = value.get("type") if isinstance(value, dict) else value
    if not isinstance(value, dict | str):
        kind = type(value).__name__
    return names.get(kind, kind) if isinstance(kind, str) else kind


def _without_type(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: part for name, part in value.items() if name != "type"}
    return {} if isinstance(value, str) else value


def _with_type(value: Any, serialize: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    return {"type": type(value).__name__, **serialize(value)}
