"""Flags and files that change a recipe: `--config`, `--teacher`, flags of fields, and flags whose value is YAML."""

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hf_finetune.cli.arguments import flag_of
from hf_finetune.cli.flags_help import print_help
from hf_finetune.cli.operations import operation_fields, recipe_help
from hf_finetune.cli.parsing import parse
from hf_finetune.cli.run_job import RunJob, recipe_fields
from hf_finetune.config.aliases import NAMES, current, current_flags
from hf_finetune.config.keywords import field_names, short_flags
from hf_finetune.distillation.config import Distill
from hf_finetune.errors import InputError
from hf_finetune.models.peft.config import PEFT_TYPES
from hf_finetune.training.losses.config import Supervised
from hf_finetune.utils.files import parse_yaml
from hf_finetune.utils.messages import short
from hf_finetune.utils.plain import merge

Job = TypeVar("Job", bound=RunJob)


def parse_run(job: Job, arguments: Sequence[str], prog: str, fields: dict[str, Any] | None = None) -> Job:
    """Parse flags over the fields of the `--config` file over a job.

    Args:
        fields: the content of the `--config` file. None: the file is read.

    Raises:
        InputError: an unknown flag or field, or a value of another type.
    """
    as_typed, arguments = arguments, current_flags(arguments)
    if "--help-all" in arguments or (job.has_common_help and {"-h", "--help"} & set(arguments)):
        print_help(job.recipe, arguments, prog)
        as_typed = arguments = ["--help"]
    arguments = with_sections(job, arguments)
    typed = dict(zip(map(flag_of, arguments), map(flag_of, as_typed), strict=True))
    fields = read_config_file(arguments) if fields is None else fields
    job, rest = with_yaml_flags(with_fields(job, fields, arguments), arguments)
    adapter = job.recipe.adapter
    try:
        # Without the PEFT config, whose types tyro does not accept.
        without = replace(job, recipe=replace(job.recipe, adapter=None))
        short = [f"--{name.replace('_', '-')}" for name in (*field_names(job.recipe), *NAMES)]
        job = parse(type(job), rest, prog, without, typed=typed, others=short)
    except SystemExit:
        print(recipe_help(type(job.recipe)))
        raise
    return replace(job, recipe=replace(job.recipe, adapter=adapter))


def with_sections(job: RunJob, arguments: Sequence[str]) -> list[str]:
    """Name fields with their sections: `--train.weight-decay` for `--weight-decay`, as for keywords of Python.

    Raises:
        InputError: several fields have the name.
    """
    names = field_names(job.recipe)
    own = short_flags(job.recipe) | {field.name for part in (job, job.launch) for field in dataclasses.fields(part)}
    full = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        negated = "no-" if name.startswith("no_") else ""
        name = name.removeprefix("no_")
        fields = names.get(name, []) if flag.startswith("--") and name not in own else []
        if not fields or name in fields:
            full.append(argument)
            continue
        if len(fields) > 1:
            spelled = " or ".join(f"--{field.replace('_', '-')}" for field in fields)
            raise InputError(f"{flag}: several fields have this name; write {spelled}")
        section, _, name = fields[0].rpartition(".")
        full.append(f"--{section}.{negated}{name}".replace("_", "-") + f"{equals}{value}")
    return full


def read_config_file(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the recipe fields of the file that `--config` names. Read it once: it may be a pipe.

    Raises:
        InputError: the file is unreadable, no YAML, or no mapping.
    """
    if (file := flag_value(arguments, "--config")) is None:
        return {}
    fields = parse_yaml(Path(file), f"--config {file}")
    if not isinstance(fields, dict | None):
        raise InputError(f"--config {file}: expected a mapping of fields, got {short(fields)}")
    return current(recipe_fields(fields or {}))


def with_fields(job: Job, fields: dict[str, Any], arguments: Sequence[str]) -> Job:
    """Return the job with the fields of a file and with the teacher that a flag names.

    Raises:
        InputError: see `utils.plain.merge`; or a flag of distillation without a teacher.
    """
    teacher = flag_value(arguments, "--teacher") or flag_value(arguments, "--objective.teacher")
    objective = fields.get("objective")
    objective = {"type": objective} if isinstance(objective, str) else objective
    if isinstance(objective, dict) and objective.get("type") == "Distill":
        # It replaces the objective of the recipe, whatever that holds.
        fields = fields | {"objective": objective if teacher is None else {"teacher": teacher, **objective}}
    else:
        job = _with_teacher(job, teacher)
    job = _with_teacher(replace(job, recipe=merge(job.recipe, fields)), teacher)  # the file may say `type: Supervised`
    if not isinstance(job.recipe.objective, Distill) and flag_value(arguments, "--objective") is None:
        _refuse_flags_of_distillation(arguments)
    return job


def _with_teacher(job: Job, teacher: str | None) -> Job:
    return job if teacher is None else replace(job, recipe=job.recipe.with_teacher(teacher))


def _refuse_flags_of_distillation(arguments: Sequence[str]) -> None:
    fields = {f.name for f in dataclasses.fields(Distill)} - {f.name for f in dataclasses.fields(Supervised)}
    for flag in (argument.partition("=")[0] for argument in arguments):
        section, _, name = flag.partition(".")
        if section == "--objective" and name.partition(".")[0].replace("-", "_") in fields:
            raise InputError(f"{flag}: only a student has this; name its teacher by --teacher MODEL")


def with_yaml_flags(job: Job, arguments: Sequence[str]) -> tuple[Job, list[str]]:
    """Set the fields whose flags take YAML, such as `--model.surgery '[{type: KeepLayers, first: 4}]'`.

    Returns:
        The job and the other arguments, among them flags of a configured operation (`--model.surgery.0.first 3`).

    Raises:
        InputError: a flag without its value, no YAML, or no such operation or field.
    """
    examples = {name: members[0].__name__ for name, members in operation_fields(type(job.recipe)).items()}
    examples |= {"adapter": next(iter(PEFT_TYPES)), "model.from_config": "'{num_hidden_layers: 4}'"}
    examples["train.extra"] = "'{adam_beta2: 0.98}'"
    rest, remaining = [], iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or not (name in examples or name.startswith("adapter.")):
            rest.append(argument)
            continue
        try:
            changes = parse_yaml(value if equals else next(remaining), flag)
        except StopIteration:
            example = f", such as {examples[name]}" if name in examples else ""
            raise InputError(f"{flag}: expected a value{example}") from None
        for part in reversed(name.split(".")):
            changes = {part: changes}
        job = replace(job, recipe=merge(job.recipe, current(changes)))
    return job, rest


def flag_value(arguments: Sequence[str], flag: str) -> str | None:
    """Return the value of a flag, or None if the flag is absent."""
    for position, argument in enumerate(arguments):
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None
