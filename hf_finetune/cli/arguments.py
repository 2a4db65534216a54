"""The flags of a job by the types of its fields, and one line about what is wrong with arguments.

tyro reports an error only as a page of text for people. When it has refused arguments, they are looked at here.
"""

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tyro

from hf_finetune.config.aliases import current_flags
from hf_finetune.errors import InputError
from hf_finetune.utils.config_errors import expectation, without_null
from hf_finetune.utils.hints import configs_in, is_union, unwrapped
from hf_finetune.utils.messages import did_you_mean, listed


@dataclasses.dataclass
class Flags:
    """The arguments that a job takes."""

    hints: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Types by flag, `--train.learning-rate` as well as its aliases."""
    required: list[str] = dataclasses.field(default_factory=list)
    """Positional arguments without a default, by their names in usage texts."""

    @classmethod
    def of(cls, kind: type, default: Any = None) -> "Flags":
        """Return the arguments of a class of jobs; members of unions have flags where `default` holds them."""
        flags = cls()
        flags._add(kind, default, "")
        return flags

    def _add(self, kind: type, default: Any, prefix: str) -> None:
        hints = typing.get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            options = unwrapped(hints[field.name])[1]
            settings = {name: value for option in options for name, value in getattr(option, "__dict__", {}).items()}
            name = field.name if settings.get("name") is None else settings["name"]
            dotted = f"{prefix}.{name}".strip(".").replace("_", "-")
            value = field.default if default is None else getattr(default, field.name)
            if tyro.conf.Positional in options:
                if value in (dataclasses.MISSING, tyro.MISSING):
                    self.required.append(settings.get("metavar") or dotted)
            elif tyro.conf.Suppress not in options:
                spelled = [f"--{dotted}", *(settings.get("aliases") or ())]
                self.hints |= dict.fromkeys(spelled, hints[field.name])
                self._add_inner(hints[field.name], value, dotted)

    def _add_inner(self, hint: Any, value: Any, dotted: str) -> None:
        """Add the flags of a config in a field, or of those in a tuple."""
        for number, member in enumerate(value if isinstance(value, tuple) else (value,)):
            prefix = f"{dotted}.{number}" if isinstance(value, tuple) else dotted
            if dataclasses.is_dataclass(member):
                self._add(type(member), member, prefix)
            elif member is dataclasses.MISSING and (configs := configs_in(hint)):
                self._add(configs[0], None, prefix)

    def hint(self, flag: str) -> Any:
        """Return the type of a flag or of its negation, or None if there is no such flag."""
        return self.hints.get(flag) or self.hints.get(f"--{flag.removeprefix('--').replace('no-', '', 1)}")

    def choices_with(self, section: str, name: str) -> list[str]:
        """Return the configs with this field that the flag of a section could choose, but has not."""
        hint, field = self.hints.get(section), name.removeprefix("no-").replace("-", "_")
        configs = configs_in(hint) if is_union(unwrapped(hint)[0]) else []
        return [each.__name__ for each in configs if field in {known.name for known in dataclasses.fields(each)}]


def with_joined_labels(flags: Flags, arguments: Sequence[str]) -> list[str]:
    """Join the words after `--label` by commas, `--label a b c`, where all other words come before the flags."""
    leading = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    if leading < len(flags.required):
        return list(arguments)
    joined: list[str] = []
    names = 0
    for argument in arguments:
        if argument.startswith("--"):
            names = 0 if current_flags([argument])[0] in ("--label", "--data.label") else -1
        elif names > 0:
            joined[-1] += f",{argument}"
            continue
        elif names == 0 and joined and joined[-1].startswith("--"):
            names = 1
        joined.append(argument)
    return joined


def flag_of(argument: str) -> str:
    """Return `--flag` of `--flag=value`, and other arguments as they are."""
    return argument.partition("=")[0] if argument.startswith("--") else argument


def unknown_argument(argument: str, prog: str, typed: str, flags: Flags, others: Iterable[str] = ()) -> InputError:
    """Return the error of an argument that a command does not take. For the arguments, see `explain`."""
    if not argument.startswith("-"):
        return InputError(f"{argument}: unexpected; `{prog} --help` lists what it takes")
    section, _, name = argument.rpartition(".")
    if owners := flags.choices_with(section, name):
        return InputError(f"{typed}: a field of {' or '.join(owners)}; add {section} {owners[0]}")
    remedy = did_you_mean(typed, {*flags.hints, *others} - {typed}) or f"; `{prog} --help` lists them"
    return InputError(f"{typed}: no such flag{remedy}")


def explain(
    flags: Flags, arguments: Sequence[str], prog: str, typed: Mapping[str, str], others: Iterable[str] = ()
) -> InputError | None:
    """Return the first reason to refuse arguments, or None.

    Args:
        arguments: with the flags of `flags`.
        prog: the command, for messages.
        typed: flags as the user typed them, by those in `arguments`.
        others: further flags to suggest.
    """
    rest, number = list(arguments), 0
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if not flag.startswith("--"):
            number += 1
            continue
        if (hint := flags.hint(flag)) is None:
            return unknown_argument(flag, prog, typed.get(flag, flag), flags, others)
        values = [value] if equals else []
        while rest and not equals and not rest[0].startswith("--") and _takes_more(hint, len(values)):
            values.append(rest.pop(0))
        if error := _misfit(hint, values, typed.get(flag, flag)):
            return error
    missing = flags.required[number:]
    return InputError(f"{prog}: missing {listed(missing)}") if missing else None


def _takes_more(hint: Any, number: int) -> bool:
    bare = without_null(hint)
    members = typing.get_args(bare) if is_union(bare) else (bare,)
    return hint is not bool and (number == 0 or any(typing.get_origin(member) in (tuple, dict) for member in members))


def _misfit(hint: Any, values: Sequence[str], typed: str) -> InputError | None:
    """Return an error if the values of a flag do not fit its type."""
    from pydantic import TypeAdapter

    bare, options = without_null(hint), unwrapped(hint)[1]
    read_by = next((each for each in options if isinstance(each, tyro.constructors.PrimitiveConstructorSpec)), None)
    if read_by is None and (hint is bool or typing.get_origin(bare) is dict or configs_in(bare)):
        return None
    is_list = typing.get_origin(bare) is tuple and read_by is None
    expected = "True or False" if bare is bool else expectation(hint).removesuffix(" or null")
    expected = expected if read_by is None else read_by.metavar
    if not values and not is_list:
        return InputError(f"{typed}: expected a value, {expected}")
    if values == ["None"] and bare is not unwrapped(hint)[0]:
        return None
    try:
        if read_by is not None:
            read_by.instance_from_str(list(values))
        else:
            # Not strict: text is converted to a number.
            value = list(values) if is_list else values[0]
            TypeAdapter(hint, config={"allow_inf_nan": False}).validate_python(value)
        fits = bare is not bool or values[0] in ("True", "False")
    except ValueError:  # pydantic's is one, too
        fits = False
    return None if fits else InputError(f"{typed} {' '.join(values)}: expected {expected}")
