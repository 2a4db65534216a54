"""What a command line says of a recipe that no flag of one field can: a file of fields, a teacher, operations as YAML."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_finetune.config.aliases import current
from hf_finetune.config.recipe import Distill, Recipe, Supervised
from hf_finetune.errors import InputError
from hf_finetune.models.peft.config import PEFT_TYPES
from hf_finetune.utils.files import parse_yaml
from hf_finetune.utils.hints import configs_in
from hf_finetune.utils.plain import merge


def yaml_fields(arguments: Sequence[str]) -> dict[str, Any]:
    """What the file of `--config` sets. To be read once: it may be a pipe.

    Raises:
        InputError: it cannot be read, is no YAML, or no mapping.
    """
    if (file := flag_value(arguments, "--config")) is None:
        return {}
    path = Path(file)
    try:
        fields = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"--config {path}: {error}") from None
    if not isinstance(fields, dict | None):
        raise InputError(f"--config {path}: expected a mapping of fields, got {fields!r}")
    return current(fields or {})


def merged(recipe: Recipe, fields: dict[str, Any], arguments: Sequence[str]) -> Recipe:
    """The recipe with the fields of a file, which may be a student's where a flag names its teacher.

    Raises:
        InputError: see `utils.plain.merge`; or a flag that is of a student's objective alone, without a teacher.
    """
    written = fields.get("objective")
    written = {"type": written} if isinstance(written, str) else written
    if isinstance(written, dict) and written.get("type") == "Distill":
        # Written out, it begins anew.
        teacher = _teacher(arguments)
        fields = fields | {"objective": written if teacher is None else {"teacher": teacher, **written}}
    else:
        recipe = _with_teacher(recipe, arguments)
    # Again, for the file may say `type: Supervised`.
    recipe = _with_teacher(merge(recipe, fields), arguments)
    if isinstance(recipe.objective, Distill) or flag_value(arguments, "--objective") is not None:
        return recipe
    own = {f.name for f in dataclasses.fields(Distill)} - {f.name for f in dataclasses.fields(Supervised)}
    for flag in (argument.partition("=")[0] for argument in arguments):
        group, _, name = flag.partition(".")
        if group == "--objective" and name.partition(".")[0].replace("-", "_") in own:
            raise InputError(f"{flag}: this is asked of a student; name its teacher beside it, --teacher MODEL")
    return recipe


def _with_teacher(recipe: Recipe, arguments: Sequence[str]) -> Recipe:
    """A flag that names a teacher makes the objective one that has one; all that it said before stays."""
    teacher = _teacher(arguments)
    if teacher is None or isinstance(recipe.objective, Distill):
        return recipe
    return dataclasses.replace(recipe, objective=Distill(teacher=teacher, **vars(recipe.objective)))


def _teacher(arguments: Sequence[str]) -> str | None:
    """The first one that a flag names."""
    return flag_value(arguments, "--teacher") or flag_value(arguments, "--objective.teacher")


def with_operations(recipe: Recipe, arguments: Sequence[str]) -> tuple[Recipe, list[str]]:
    """Set the operations that a flag gives whole, as YAML; the other arguments are left: `--model.surgery.0.first 3`.

    Raises:
        InputError: a flag without its value, no YAML, no such operation, or a field that it does not have.
    """
    # A PEFT config is none of ours, but is given in the same way; its fields, too (`--adapter.r 16`).
    fields, rest = {name: [m.__name__ for m in members] for name, members in operation_fields(Recipe).items()}, []
    fields["adapter"] = list(PEFT_TYPES)
    fields["model.from_config"] = ["'{num_hidden_layers: 4}'"]
    left = iter(arguments)
    for argument in left:
        flag, given, value = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        of_adapter = name.startswith("adapter.")
        if not flag.startswith("--") or not (name in fields or of_adapter):
            rest.append(argument)
            continue
        try:
            changes = parse_yaml(value if given else next(left))
        except StopIteration:
            such = "" if of_adapter else f", such as {fields[name][0]}"
            raise InputError(f"{flag}: expected a value{such}") from None
        except ValueError as error:
            raise InputError(f"{flag}: {error}") from None
        for part in reversed(name.split(".")):
            changes = {part: changes}
        recipe = merge(recipe, current(changes))
    return recipe, rest


def operation_fields(kind: type, prefix: str = "") -> dict[str, list[type]]:
    """Fields below the dataclass `kind` that hold one of several operations, or a list of them, with those they may hold."""
    found: dict[str, list[type]] = {}
    for name, hint in typing.get_type_hints(kind).items():
        members = configs_in(hint)
        dotted = f"{prefix}{name}"
        if len(members) > 1 and dotted != "data":
            found[dotted] = members
        # What a tuple will hold, or which optimizer it will be, has no flags yet.
        for member in members if len(members) == 1 or dotted in ("data", "objective") else ():
            for inner, of in operation_fields(member, f"{dotted}.").items():
                # Texts and images have fields of one name that hold other operations.
                found[inner] = list(dict.fromkeys([*found.get(inner, []), *of]))
    return found


def help_on_operations() -> str:
    """The part of the help that flags of configured operations cannot give: which others there are."""
    lines = ["", "operations, as YAML: a name, {type: NAME, field: value}, or a list of such:"]
    for name, members in operation_fields(Recipe).items():
        lines.append(f"  --{name.replace('_', '-')}")
        for member in members:
            fields = ", ".join(f.name for f in dataclasses.fields(member))
            first = " ".join((member.__doc__ or "").partition("\n\n")[0].split())
            lines.append(f"      {member.__name__}({fields}): {first}")
    lines += [
        "  --adapter",
        "      a PEFT config, {peft_type: NAME, field: value}, or its name for PEFT's defaults; fields of one that is",
        "      configured are flags, --adapter.r 4; one of:",
    ]
    lines += [f"      {', '.join(name for name in PEFT_TYPES if name != 'PREFIX_TUNING')}"]
    lines += [
        "  --model.from-config",
        "      random weights, in a network with these fields of the checkpoint's config: {num_hidden_layers: 4, hidden_size: 192}",
        "flags of images: `hf-finetune train --image image --help`; of a student: `hf-finetune train --teacher RUN --help`",
    ]
    return "\n".join(lines)


def flag_value(arguments: Sequence[str], flag: str) -> str | None:
    """What follows a flag, after a space or `=`; None: it is not there."""
    for position, argument in enumerate(arguments):
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None
