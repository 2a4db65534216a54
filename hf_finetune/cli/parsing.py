"""Parse the arguments of a command by tyro; the first line of an error says all that is needed.

A plain command has a dataclass of its flags and calls `parse`. Only commands that hold a whole recipe parse otherwise:
by `overrides.parse_run` (RECIPE) or `train.parse_train` (DATA), after `first_positional` if that word decides on the
flags that follow.
"""

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import tyro

from hf_finetune.config.aliases import current_flags
from hf_finetune.errors import InputError

T = TypeVar("T", bound=Any)


def parse(kind: type[T], arguments: Sequence[str], prog: str, default: T | None = None) -> T:
    """Parse the flags of a job.

    Args:
        kind: a dataclass whose fields are the flags.
        prog: the command as usage and errors name it.
        default: a job whose fields are the defaults of the flags.

    Raises:
        InputError: an unknown or missing flag, or a value of another type.
        SystemExit: after the help was printed.
    """
    arguments = current_flags(arguments, {field.name for field in dataclasses.fields(kind)})
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), _unfolded_errors(arguments):
            return tyro.cli(
                kind, args=arguments, prog=prog, default=tyro.MISSING_NONPROP if default is None else default
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        split = [part for a in arguments for part in (a.split("=", 1) if a.startswith("--") else [a])]
        if "Unrecognized options" in complaint.getvalue() and split != arguments:
            # tyro suggests a known flag for `--epoch 3`, but not for `--epoch=3`.
            return parse(kind, split, prog, default)
        raise InputError(_plain_lines(complaint.getvalue(), prog)) from None


@contextlib.contextmanager
def _unfolded_errors(arguments: Sequence[str]) -> Iterator[None]:
    """Make the terminal wide enough for any error on one line. The help keeps its width."""
    width = os.environ.get("COLUMNS")
    if not {"-h", "--help"} & set(arguments):
        os.environ["COLUMNS"] = "1000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS", None)
        if width is not None:
            os.environ["COLUMNS"] = width


def _plain_lines(box: str, prog: str) -> str:
    """Return tyro's complaint without the box that tyro draws around it."""
    lines = [re.sub(r"^[│|╭╰+]|[│|╮╯+]$", "", line.strip()).strip() for line in box.splitlines()]
    lines = [line for line in lines if line.strip("─-")]
    title, body = lines[0].strip("─- "), lines[1:]
    if len(body) > 1 and body[0].startswith("Missing from"):
        body = [f"missing {body[1]}", *body[2:]]
    if len(body) > 2 and body[1].startswith("Perhaps you meant"):
        body = [f"{body[0]}; perhaps you meant {body[2]}", *body[3:]]
    if body and (invalid_field := re.match(r"Error parsing recipe\.([\w.]+): \w+\.(.+)", body[0])):
        return f"{invalid_field[1]}.{invalid_field[2]}"
    if body and "Got errors:" in body[1:]:
        body = [body[0].removesuffix(".")]  # the errors of each member of a union add nothing
    return "\n".join([f"{prog}: {body[0] if body else title}", *body[1:10]])


def first_positional(arguments: Sequence[str], usage: str) -> tuple[str, list[str]]:
    """Return the argument before all flags, and the other arguments.

    Raises:
        InputError: there is none.
        SystemExit: after the usage was printed, for --help.
    """
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"usage: {usage}")
        raise SystemExit(0)
    if not arguments or arguments[0].startswith("-"):
        raise InputError(f"usage: {usage}")
    return arguments[0], list(arguments[1:])
