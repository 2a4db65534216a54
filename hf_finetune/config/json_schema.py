"""The JSON Schema of a recipe file: editors complete its fields, show their documentation and check their values.

A file sets some fields of a recipe and leaves the others, so the schema requires none.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from hf_finetune.utils.hints import configs_below, configs_in


def json_schema(recipe: type) -> dict[str, Any]:
    """Return the schema of a recipe's class, in JSON Schema's draft 2020-12."""

    class Generator(_Documented):
        members = _members(recipe)

    schema = TypeAdapter(recipe).json_schema(schema_generator=Generator)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


class _Documented(GenerateJsonSchema):
    """Fields with the docstrings below them, and without the titles that pydantic makes of names."""

    members: frozenset[type]

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        """Return the schema of a config."""
        plain = super().dataclass_schema(schema)
        documentation = _field_docstrings(schema["cls"])
        for name, field in plain.get("properties", {}).items():
            field.pop("title", None)
            if isinstance(field.get("default"), dict):
                del field["default"]  # of a config as a whole; its fields have their own
            if name in documentation:
                field["description"] = documentation[name]
        if schema["cls"] in self.members:
            plain["properties"] = {"type": {"const": schema["cls"].__name__}, **plain.get("properties", {})}
        plain.pop("required", None)
        return plain


def _members(recipe: type) -> frozenset[type]:
    """Configs of which a field holds one of several, so that files name them under `type`."""
    hints = (hint for config in configs_below(recipe).values() for hint in typing.get_type_hints(config).values())
    return frozenset(member for hint in hints if len(configs_in(hint)) > 1 for member in configs_in(hint))


def _field_docstrings(cls: type) -> dict[str, str]:
    """The string below each field of a class, and of the classes that it extends."""
    found: dict[str, str] = {}
    for kind in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found
