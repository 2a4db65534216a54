"""The fields of a config that hold operations, whose flags take YAML."""

import dataclasses
import typing
from typing import Any

from hf_finetune.config.aliases import current
from hf_finetune.models.peft.config import PEFT_TYPES
from hf_finetune.utils.config import validated
from hf_finetune.utils.experimental import marks_of_field
from hf_finetune.utils.files import parse_yaml
from hf_finetune.utils.hints import configs_in, is_choice


def operation_fields(config: type, prefix: str = "") -> dict[str, list[type]]:
    """Return the fields below a config that hold operations of a union, by dotted name, with the union's members."""
    fields: dict[str, list[type]] = {}
    for name, hint in typing.get_type_hints(config).items():
        members, dotted = configs_in(hint), f"{prefix}{name}"
        is_operation = is_choice(hint)
        if is_operation and dotted != "data":
            fields[dotted] = members
        # The members of other unions, and of what may be None, have flags only when one of them is configured.
        for member in members if not is_operation or dotted in ("data", "objective") else ():
            for inner, operations in operation_fields(member, f"{dotted}.").items():
                # data.augment of texts and of images hold different operations.
                fields[inner] = list(dict.fromkeys([*fields.get(inner, []), *operations]))
    return fields


def parse_operations(yaml: str, flag: str, hint: Any) -> tuple[Any, ...]:
    """Return the operations that a flag names.

    Args:
        hint: `Operations` of their union.

    Raises:
        InputError: no YAML, no list, no such operation, or a field out of range.
    """
    return validated(current(parse_yaml(yaml, flag), flag.removeprefix("--")), hint, flag)


def operations_help(config: type) -> str:
    """Return the help on the fields of a config that hold operations, which tyro cannot list."""
    lines = ["", "operations, as YAML: a name, {type: NAME, field: value}, or a list of these:"]
    for name, members in operation_fields(config).items():
        lines.append(f"  --{name.replace('_', '-')}")
        lines += [f"      {mark.text}" for mark in marks_of_field(config, name)]
        for member in members:
            fields = ", ".join(f.name for f in dataclasses.fields(member))
            summary = " ".join((member.__doc__ or "").partition("\n\n")[0].split())
            lines.append(f"      {member.__name__}({fields}): {summary}")
    return "\n".join(lines)


def recipe_help(recipe: type) -> str:
    """Return the help on the fields of a recipe whose flags take YAML."""
    adapters = ", ".join(name for name in PEFT_TYPES if name != "PREFIX_TUNING")
    return f"""\
{operations_help(recipe)}
  --adapter
      a PEFT config, {{peft_type: NAME, field: value}}, or its name for PEFT's defaults; the fields of a configured
      one are flags, --adapter.r 4; one of:
      {adapters}
  --model.from-config
      random weights, in a network with these fields of the checkpoint's config:
      {{num_hidden_layers: 4, hidden_size: 192}}
flags of images: `hf-finetune train --image image --help-all`;
of a student: `hf-finetune train --teacher RUN --help-all`"""
