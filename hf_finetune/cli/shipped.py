"""The recipes that come with the package: list, find and copy them by name or by path."""

import ast
import difflib
from collections.abc import Iterable
from pathlib import Path

from hf_finetune.errors import InputError
from hf_finetune.utils.files import check_writable_file, write_bytes


def folder() -> Path:
    """Return the folder of the recipes: inside an installed wheel, or next to the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def names() -> dict[str, Path]:
    """Return the files of all shipped recipes, by name."""
    return {path.stem: path for path in sorted(folder().glob("*/*.py"))}


def _with_folder_names(paths: Iterable[Path], suffix: str = "") -> dict[str, Path]:
    """Return files by their names, `quickstart` as well as `text/quickstart`."""
    return {f"{prefix}{path.stem}{suffix}": path for path in paths for prefix in ("", f"{path.parent.name}/")}


def is_known(name: str) -> bool:
    """Return whether a shipped recipe has this name, such as `quickstart` or `text/quickstart`."""
    return name in _with_folder_names(names().values())


def summaries() -> dict[str, str]:
    """Return the first line of each recipe's docstring, without running the recipe."""
    return {
        name: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        for name, path in names().items()
    }


def find(name: str) -> Path:
    """Return the file of a recipe given by path or by name.

    Raises:
        InputError: no such recipe; the message has the nearest name.
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
    return _with_folder_names(names().values())[name]


def copy(name: str, destination: Path) -> Path:
    """Copy a shipped recipe, or a config of Accelerate's launcher (`cpu-2.yaml`), to a file or into a folder.

    Raises:
        InputError: the destination exists already or cannot be written, or its folder does not exist.
    """
    source = _with_folder_names(folder().glob("accelerate/*.yaml"), ".yaml").get(name) or find(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists():
        raise InputError(f"{target}: exists already; name another file")
    if not target.parent.is_dir():
        raise InputError(f"{target.parent}: no such folder")
    check_writable_file(target, "DEST")
    write_bytes(target, source.read_bytes())
    return target
