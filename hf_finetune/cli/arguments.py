"""From a command line to a recipe: a recipe file, a file of fields, a teacher, and operations as YAML."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from hf_finetune.cli import shipped
from hf_finetune.cli.embedded import IMAGE_CHECKPOINT, minilm
from hf_finetune.config.aliases import current
from hf_finetune.config.data import ImageData, TextData
from hf_finetune.config.recipe import Launch, Recipe
from hf_finetune.distillation.config import Distill
from hf_finetune.errors import InputError
from hf_finetune.models.config import Model
from hf_finetune.models.peft.config import PEFT_TYPES
from hf_finetune.training.losses.config import Supervised
from hf_finetune.utils.files import parse_yaml
from hf_finetune.utils.hints import configs_in
from hf_finetune.utils.plain import merge

Config = Annotated[str | None, tyro.conf.arg(metavar="FILE.yaml")]
RecipeFunction = Callable[[], Recipe]
"""What a recipe script defines: `def recipe() -> Recipe`."""


@dataclass(frozen=True)
class RunJob:
    """A recipe with its fields as flags."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    launch: Annotated[Launch, tyro.conf.arg(name="")] = Launch()
    config: Config = None
    """YAML file of recipe fields; flags win over it."""
    find_lr: bool = False
    """In place of the run: 100 steps at a growing learning rate (arXiv:1506.01186), their losses as a table and a plot,
    and a proposal. Reads training rows alone; nothing it trains is saved."""
    plot_schedule: Annotated[str | None, tyro.conf.arg(metavar="FILE.svg")] = None
    """With plan: draw the learning rate of every step, a line for each group of parameters that has its own."""
    json: bool = False
    """Print the result alone, as JSON."""


def blank_recipe(*, images: bool, name: str = "") -> Recipe:
    """The recipe that flags and files begin from: defaults on the embedded checkpoint, without data."""
    if images:
        return Recipe(name=name, data=ImageData(path=""), model=Model(checkpoint=IMAGE_CHECKPOINT))
    return Recipe(name=name, data=TextData(path=""), model=Model(checkpoint=minilm()))


def load_recipe(name: str) -> Recipe:
    """Run a recipe file and return what its `recipe()` returns.

    Raises:
        InputError: when the file has no such function, or it returns something else.
    """
    path = shipped.find(name)
    spec = importlib.util.spec_from_file_location(f"hf_finetune_recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _errors_name(path):
        spec.loader.exec_module(module)
    function = vars(module).get("recipe")
    if not callable(function):
        raise InputError(f"{path}: expected a function `recipe()` that returns a Recipe")
    return make_recipe(function, path)


def make_recipe(function: Callable[[], Any], path: Path) -> Recipe:
    """What `recipe()` of the file `path` returns.

    Raises:
        InputError: when it fails, or returns something else.
    """
    with _errors_name(path):
        made = function()
    if not isinstance(made, Recipe):
        raise InputError(f"{path}: recipe() returned {type(made).__name__}, expected a Recipe")
    return made


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Whatever the user's code raises becomes one line that names the file and the line."""
    try:
        yield
    except SyntaxError as error:
        raise InputError(f"{error.filename or path}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        here = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path.absolute()]
        line = f", line {here[-1]}" if here else ""
        what = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{path}{line}: {' '.join(what.split())}") from error


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
    """Fields below the dataclass `kind` that hold one of several operations, or a list of them, with those they may
    hold."""
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
        "      random weights, in a network with these fields of the checkpoint's config:",
        "      {num_hidden_layers: 4, hidden_size: 192}",
        "flags of images: `hf-finetune train --image image --help`;",
        "of a student: `hf-finetune train --teacher RUN --help`",
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
