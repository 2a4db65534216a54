"""PEFT's own configs as a field of a recipe: `{peft_type: LORA, r: 8}`, by PEFT's own mapping; cheap to import."""

from __future__ import annotations

import dataclasses
import enum
import json
import typing
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from hf_finetune.errors import InputError
from hf_finetune.utils.config import Count, Fraction, Positive, configclass, validated
from hf_finetune.utils.config_errors import no_such_field

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

PEFT_TYPES = (
    *("LORA", "ADALORA", "IA3", "VERA", "OFT", "BOFT", "LOHA", "LOKR", "HRA", "FOURIERFT", "RANDLORA"),
    *("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"),
)
"""Supported methods. `models.peft.compatibility` checks whether a family supports one."""


class _ByPeftType:
    """Accept a PEFT config, `{peft_type: LORA, ...}` in files, or a peft_type only, for PEFT's defaults."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        serialization = core_schema.plain_serializer_function_ser_schema(plain_adapter)
        return core_schema.no_info_plain_validator_function(_adapter, serialization=serialization)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        kind = {"enum": list(PEFT_TYPES)}
        return {"anyOf": [kind, {"type": "object", "properties": {"peft_type": kind}}, {"type": "null"}]}


Adapter = Annotated[Any, tyro.conf.Suppress, _ByPeftType()]
"""A `peft.PeftConfig`, or None."""


@configclass
class Lora:
    """The adapter of method lora, on every linear layer of the encoder (arXiv:2106.09685)."""

    r: Count = 8
    """Rank of the update of each weight matrix."""
    alpha: Positive = 16.0
    """The update is scaled by alpha / r."""
    dropout: Fraction = 0.0
    """Dropout rate of the adapter's input."""
    variant: Literal["plain", "rslora", "dora", "pissa", "olora"] = "plain"
    """rslora: scaled by alpha / sqrt(r) (arXiv:2312.03732). dora: magnitude and direction of each row are learned
    separately (arXiv:2402.09353). pissa, olora: initialized from the main directions of the pretrained weights
    (arXiv:2404.02948, arXiv:2406.01775)."""


def plain_adapter(adapter: Any) -> dict[str, Any] | None:
    """Return a PEFT config in plain values, without fields that are None."""
    if adapter is None:
        return None
    fields = {name: value for name, value in adapter.to_dict().items() if value is not None}
    return json.loads(json.dumps(fields, default=_plain))


def _plain(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def _adapter(value: Any) -> Any:
    if value is None or type(value).__module__.startswith("peft."):
        return value
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    if isinstance(value, str):
        value = {"peft_type": value}
    if not isinstance(value, dict) or value.get("peft_type") is None:
        expected = "a PEFT config like LoraConfig(...), in YAML {peft_type: LORA, ...} or its type"
        raise InputError(f"adapter: expected {expected}, got {value!r}")
    fields = dict(value)
    name = fields.pop("peft_type")
    name = name.value if isinstance(name, enum.Enum) else name
    if name not in PEFT_TYPES:
        raise InputError(f"adapter.peft_type: expected one of {', '.join(PEFT_TYPES)}, got {name!r}")
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[name]
    _check_fields(kind, fields)
    if name == "ADALORA":
        # It requires the number of steps, which `models.peft.adapters` sets later.
        phases = [fields.get(n, 0) for n in ("tinit", "tfinal")]
        fields = {"total_step": 1 + sum(p for p in phases if isinstance(p, int)), **fields}
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise InputError(f"adapter: {error}") from error


def _check_fields(kind: type, fields: dict[str, Any]) -> None:
    """Refuse unknown fields and text instead of numbers, for which PEFT has unclear or late errors."""
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    for name, value in fields.items():
        if name not in known:
            raise no_such_field(f"adapter.{name}", known)
        # PEFT's hints say int where it accepts any number (lora_alpha).
        expected = float if hints[name] is int else hints[name]
        if expected in (float, bool):
            validated(value, expected, f"adapter.{name}")
