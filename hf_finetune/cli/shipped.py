"""The recipes that come with the package: list, describe, copy and load them by name or by path."""

from __future__ import annotations

import ast
import difflib
import shutil
from collections.abc import Iterable
from pathlib import Path

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
