"""A recipe to run, loaded from a file or blank, with its flags."""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from hf_finetune.cli import shipped
from hf_finetune.config.recipe import Launch, Recipe, recipe_from_plain
from hf_finetune.errors import InputError
from hf_finetune.utils.files import parse_yaml


@dataclass(frozen=True)
class RunJob:
    """A recipe with its fields as flags."""

    has_common_help: ClassVar[bool] = True
    """Whether --help shows only the flags that people use."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    launch: Annotated[Launch, tyro.conf.arg(name="")] = Launch()
    config: Annotated[str | None, tyro.conf.arg(metavar="FILE.yaml")] = None
    """YAML or JSON file of recipe fields, or the recipe.json of a run. Flags take precedence."""
    find_lr: bool = False
    """Instead of the run, take 100 steps at a growing learning rate (arXiv:1506.01186). Their losses are shown as a
    table and a plot, with a proposal. Only training rows are read, and no weights are saved."""
    plot_schedule: Annotated[str | None, tyro.conf.arg(metavar="FILE.svg")] = None
    """With plan: draw the learning rate of every step, one line per parameter group with a rate of its own."""
    json: bool = False
    """Print only the result, as JSON."""


RUN_DOCUMENT = "recipe.json"


def load_recipe(name: str) -> Recipe:
    """Return the recipe of a finished run, or import a recipe file and call its `recipe()`.

    Args:
        name: path of a recipe file, of a run or of its recipe.json, or the name of a shipped recipe.

    Raises:
        InputError: the file fails, or has no function `recipe()` that returns a Recipe, or holds none.
    """
    if is_run(name):
        path = Path(name) if Path(name).name == RUN_DOCUMENT else Path(name) / RUN_DOCUMENT
        content = parse_yaml(path, str(path))
        if not isinstance(content, dict) or "name" not in (fields := recipe_fields(content)):
            raise InputError(f"{path}: holds no recipe; expected the recipe.json of a run")
        return recipe_from_plain(fields)
    path = shipped.find(name)
    spec = importlib.util.spec_from_file_location(f"hf_finetune_recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _errors_in(path):
        spec.loader.exec_module(module)
    function = vars(module).get("recipe")
    if not callable(function):
        raise InputError(f"{path}: expected a function `recipe()` that returns a Recipe")
    return call_recipe(function, path)


def is_run(name: str) -> bool:
    """Return whether a path is that of a run's recipe.json or of its folder."""
    return Path(name).name == RUN_DOCUMENT or (Path(name) / RUN_DOCUMENT).is_file()


def recipe_fields(content: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a recipe in a file: all of it, or the part `recipe` of a run's recipe.json."""
    recipe = content.get("recipe")
    return recipe if isinstance(recipe, dict) else content


def call_recipe(function: Callable[[], Any], path: Path) -> Recipe:
    """Call the function `recipe()` of the file `path`.

    Raises:
        InputError: it fails, or returns anything but a Recipe.
    """
    with _errors_in(path):
        recipe = function()
    if not isinstance(recipe, Recipe):
        raise InputError(f"{path}: recipe() returned {type(recipe).__name__}, expected a Recipe")
    return recipe


@contextmanager
def _errors_in(path: Path) -> Iterator[None]:
    """Turn an exception of the user's code into one line with the file and the line number."""
    try:
        yield
    except SyntaxError as error:
        raise InputError(f"{error.filename or path}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        numbers = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path.absolute()]
        line = f", line {numbers[-1]}" if numbers else ""
        message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{path}{line}: {' '.join(message.split())}") from error
