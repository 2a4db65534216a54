"""Parse the arguments of a command by tyro; an error is one line about the flag as it was typed.

A plain command has a dataclass of its flags and calls `parse`. Only commands that hold a whole recipe parse otherwise:
by `overrides.parse_run` (RECIPE) or `train.parse_train` (DATA), after `first_positional` if that word decides on the
flags that follow.
"""

import contextlib
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from hf_finetune.cli.arguments import Flags, explain, flag_of, unknown_argument, with_joined_labels
from hf_finetune.config.aliases import current_flags
from hf_finetune.errors import InputError

T = TypeVar("T", bound=Any)


def parse(
    kind: type[T],
    arguments: Sequence[str],
    prog: str,
    default: T | None = None,
    *,
    typed: Mapping[str, str] | None = None,
    others: Iterable[str] = (),
) -> T:
    """Parse the flags of a job.

    Args:
        kind: a dataclass whose fields are the flags.
        prog: the command as usage and errors name it.
        default: a job whose fields are the defaults of the flags.
        typed: flags as the user typed them, by the flags in `arguments`.
        others: further flags to suggest, which the caller has replaced in `arguments`.

    Raises:
        InputError: an unknown or missing flag, or a value of another type.
        SystemExit: after the help was printed.
    """
    arguments = with_joined_labels(Flags.of(kind, default), arguments)
    current = current_flags(arguments, {field.name for field in dataclasses.fields(kind)})
    before = typed or {}
    typed = {new: before.get(old, old) for new, old in zip(map(flag_of, current), map(flag_of, arguments), strict=True)}
    base = tyro.MISSING_NONPROP if default is None else default
    try:
        # tyro prints errors as a page of text for people; `explain` has one line.
        with contextlib.redirect_stderr(io.StringIO()):
            job, unknown = tyro.cli(kind, args=current, prog=prog, default=base, return_unknown_args=True)
    except (SystemExit, InputError) as stop:  # a config names its fields as in Python
        if isinstance(stop, SystemExit) and not stop.code:
            raise
        error = explain(Flags.of(kind, default), current, prog, typed, others) or _cause(stop)
        raise error or InputError(f"{prog}: these arguments cannot be read; see `{prog} --help`") from None
    if unknown:
        first = next((flag_of(argument) for argument in unknown if argument.startswith("-")), unknown[0])
        raise unknown_argument(first, prog, typed.get(first, first), Flags.of(kind, default), others)
    return job


def _cause(stop: BaseException) -> InputError | None:
    """Return the error of a config whose fields do not fit together, for which tyro has left."""
    error: BaseException | None = stop
    while error is not None and not isinstance(error, InputError):
        error = error.__context__
    return error


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
        prog, command, expected = usage.splitlines()[0].removesuffix(" [flags]").split(" ", 2)
        raise InputError(f"{prog} {command}: missing {expected}\nusage: {usage}")
    return arguments[0], list(arguments[1:])
