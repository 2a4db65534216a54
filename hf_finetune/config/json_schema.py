"""The JSON Schema of a recipe file, by which editors complete, document and check its fields.

No field is required, as a file sets some fields of a recipe and leaves the others.
"""

import typing
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from hf_finetune.utils.hints import configs_below, configs_in, field_docstrings, is_choice


def json_schema(recipe: type) -> dict[str, Any]:
    """Return the schema of a recipe class, in draft 2020-12."""

    class Generator(_Documented):
        members = _members(recipe)

    schema = TypeAdapter(recipe).json_schema(schema_generator=Generator)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


class _Documented(GenerateJsonSchema):
    """Describes fields by their docstrings, and drops the titles that pydantic derives from their names."""

    members: frozenset[type]

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        plain = super().dataclass_schema(schema)
        kind: Any = schema["cls"]
        documentation = field_docstrings(kind)
        for name, field in plain.get("properties", {}).items():
            field.pop("title", None)
            if isinstance(field.get("default"), dict):
                del field["default"]  # a nested config, whose fields have their own defaults
            if name in documentation:
                field["description"] = documentation[name]
        if kind in self.members:
            plain["properties"] = {"type": {"const": kind.__name__}, **plain.get("properties", {})}
        plain.pop("required", None)
        return plain


def _members(recipe: type) -> frozenset[type]:
    """Return the configs that are members of a union, which files name under `type`."""
    hints = (hint for config in configs_below(recipe).values() for hint in typing.get_type_hints(config).values())
    return frozenset(member for hint in hints if is_choice(hint) for member in configs_in(hint))
