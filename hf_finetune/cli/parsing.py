"""A command's arguments, parsed by tyro into a job; what does not fit is one line first."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import tyro

from hf_finetune.cli.arguments import RunJob, help_on_operations, merged, with_operations, yaml_fields
from hf_finetune.config.aliases import current_flags
from hf_finetune.errors import InputError

T = TypeVar("T")


def parse(kind: type[T], default: T | None, arguments: Sequence[str], prog: str) -> T:
    """Parse a job of type `kind` from its flags, over the fields of the file that `--config` names, over `default`.

    Raises:
        InputError: for an unknown flag or field, or a value of another type.
    """
    arguments = current_flags(arguments)
    if isinstance(default, RunJob):
        recipe = merged(default.recipe, yaml_fields(arguments), arguments)
        recipe, arguments = with_operations(recipe, arguments)
        default = replace(default, recipe=recipe)
    return parse_flags(kind, default, arguments, prog)


def parse_flags(kind: type[T], default: T | None, arguments: Sequence[str], prog: str) -> T:
    """Parse flags by tyro alone; what does not fit is one plain line first."""
    complaint = io.StringIO()
    without_adapter, adapter = _split_adapter(default)
    try:
        with contextlib.redirect_stderr(complaint), _unfolded(arguments):
            # tyro knows a missing default by a value of its own.
            start = tyro.MISSING_NONPROP if without_adapter is None else without_adapter
            job: T = tyro.cli(kind, args=list(arguments), prog=prog, default=start)
    except SystemExit as stop:
        if not stop.code:
            if issubclass(kind, RunJob):
                print(help_on_operations())
            raise
        spaced = [part for a in arguments for part in (a.split("=", 1) if a.startswith("--") else [a])]
        if "Unrecognized options" in complaint.getvalue() and len(spaced) > len(arguments):
            # tyro compares a flag that it does not know with others only without a value behind it.
            return parse_flags(kind, default, spaced, prog)
        raise InputError(_plain_lines(complaint.getvalue(), prog)) from None
    if isinstance(job, RunJob) and adapter is not None:
        job = replace(job, recipe=replace(job.recipe, adapter=adapter))
    return job


def _split_adapter(job: T | None) -> tuple[T | None, Any]:
    """A job without its PEFT config, and the config: it has no flags, and tyro would complain of its types."""
    if not isinstance(job, RunJob) or job.recipe.adapter is None:
        return job, None
    return replace(job, recipe=replace(job.recipe, adapter=None)), job.recipe.adapter


def _plain_lines(box: str, prog: str) -> str:
    """tyro's complaint without the box around it, whose first line is the title."""
    lines = [re.sub(r"^[│|╭╰+]|[│|╮╯+]$", "", line.strip()).strip() for line in box.splitlines()]
    lines = [line for line in lines if line.strip("─-")]
    title, body = lines[0].strip("─- "), lines[1:]
    if len(body) > 1 and body[0].startswith("Missing from"):
        body = [f"missing {body[1]}", *body[2:]]
    if len(body) > 2 and body[1].startswith("Perhaps you meant"):
        body = [f"{body[0]}; perhaps you meant {body[2]}", *body[3:]]
    if body and (refused := re.match(r"Error parsing recipe\.([\w.]+): \w+\.(.+)", body[0])):
        return f"{refused[1]}.{refused[2]}"  # a field out of its range, said as of a file
    if body and "Got errors:" in body[1:]:
        body = [body[0].removesuffix(".")]  # the errors of each member of a union say no more
    return "\n".join([f"{prog}: {body[0] if body else title}", *body[1:10]])


@contextlib.contextmanager
def _unfolded(arguments: Sequence[str]) -> Iterator[None]:
    """Room for a complaint of tyro's on one line; its help keeps the width of the terminal."""
    if {"-h", "--help"} & set(arguments):
        yield
        return
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "1000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def first_positional(arguments: Sequence[str], text: str) -> tuple[str, list[str]]:
    """The argument that comes before all flags, and the others.

    Raises:
        InputError: there is none; `text` is the usage.
    """
    if not arguments or arguments[0].startswith("-"):
        raise usage_or_help(arguments, text, f"usage: {text}")
    return arguments[0], list(arguments[1:])


def usage_or_help(arguments: Sequence[str], text: str, complaint: str) -> InputError:
    """The error for arguments that a command does not take; when they ask for help, it is given instead."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"usage: {text}")
        raise SystemExit(0)
    return InputError(complaint)
