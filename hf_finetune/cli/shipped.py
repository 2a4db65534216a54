"""The recipes that come with the package: list, describe, copy and load them by name or by path."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_finetune.config.recipe import Recipe
from hf_finetune.errors import InputError


def folder() -> Path:
    """Where the recipes lie: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def names() -> dict[str, Path]:
    """File of every shipped recipe, by its name."""
    return {path.stem: path for path in sorted(folder().glob("*/*.py"))}


def _by_name(paths: Iterable[Path], suffix: str = "") -> dict[str, Path]:
    """Shipped files by their names, each alone and behind its folder's."""
    return {f"{where}{path.stem}{suffix}": path for path in paths for where in ("", f"{path.parent.name}/")}


def is_known(name: str) -> bool:
    """Whether a shipped recipe has this name, such as `quickstart` or `text/quickstart`."""
    return name in _by_name(names().values())


def described() -> dict[str, str]:
    """First line of every recipe's docstring, read without running it."""
    return {
        name: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        for name, path in names().items()
    }


def find(name: str) -> Path:
    """The file of a recipe given by path or by name.

    Raises:
        InputError: when there is neither, with the nearest name.
    """
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise InputError(f"{name}: no such recipe file")
        return path
    if not is_known(name):
        close = difflib.get_close_matches(name.rpartition("/")[2], names(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see `hf-finetune list`"
        raise InputError(f"{name}: no recipe of this name; {hint}")
    return _by_name(names().values())[name]


def load_recipe(name: str) -> Recipe:
    """Run a recipe file and return what its `recipe()` returns.

    Raises:
        InputError: when the file has no such function, or it returns something else.
    """
    path = find(name)
    spec = importlib.util.spec_from_file_location(f"hf_finetune_recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _errors_name(path):
        spec.loader.exec_module(module)
    function = vars(module).get("recipe")
    if not callable(function):
        raise InputError(f"{path}: expected a function `recipe()` that returns a Recipe")
    return make(function, path)


def make(function: Callable[[], Any], path: Path) -> Recipe:
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


def copy(name: str, destination: Path) -> Path:
    """Copy a shipped recipe, or one of the launcher's files (`cpu-2.yaml`); a folder keeps its file name.

    Raises:
        InputError: when the destination exists already, or its folder does not.
    """
    source = _by_name(folder().glob("accelerate/*.yaml"), ".yaml").get(name) or find(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists():
        raise InputError(f"{target}: exists already; name another file")
    if not target.parent.is_dir():
        raise InputError(f"{target.parent}: no such folder")
    return Path(shutil.copyfile(source, target))
