"""Atomic writes, and strict YAML."""

import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from hf_finetune.errors import InputError
from hf_finetune.utils.messages import one_line, printable, short

# Far more than any recipe has.
MOST_YAML_CHARACTERS, MOST_YAML_DEPTH, MOST_YAML_VALUES = 1_000_000, 50, 100_000

# Unfinished files and folders: of this package, of safetensors, and of this package up to 0.1.0.
TEMPORARY = re.compile(
    r"\..+\.partial|\.tmp[A-Za-z0-9]{6}"
    r"|\.(recipe|result|manifest|pretraining|stages|search)\.json\.[a-z0-9_]{8}"
    r"|\.(README\.md|log\.jsonl|head\.safetensors|trained_on\.npy|predictions\.parquet|policy\.yaml)\.[a-z0-9_]{8}"
)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, atomically as `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: if the process dies, `path` holds either its old or its new content."""
    with atomic_file(path) as temporary, named_errors(path):
        temporary.write_bytes(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file, which is moved to `path` when the block succeeds, and is on the disk then.

    It lies in the nearest folder that exists; missing folders are created at the end.
    """
    home = next(parent for parent in path.absolute().parents if parent.exists())
    temporary = temporary_path(home, path.name)
    # Unlike those of `tempfile`, it gets the rights that the umask leaves to every new file.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # the block may have replaced the file
        sync(temporary)
        make_folder(path.parent)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(home: Path, name: str) -> Path:
    """Return an unused path in `home` for what becomes `name`; `is_temporary` knows it where a kill leaves it."""
    short = name.encode()[:200].decode(errors="ignore")
    return home / f".{short}.{secrets.token_hex(4)}.partial"


def is_temporary(path: Path) -> bool:
    """Return whether a file or folder is an unfinished one of this package, or of safetensors, by its name."""
    return TEMPORARY.fullmatch(path.name) is not None


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Name the file in errors of the block that name none, as those of a write do."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def sync(path: Path) -> None:
    """Wait until a file is on the disk, or that a folder names its files.

    Raises:
        OSError: a file could not be written.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        # A folder may take new names without showing those that it has.
        if path.is_dir():
            return
        raise
    try:
        with named_errors(path):
            os.fsync(handle)
    except OSError:
        # Some network file systems sync files only.
        if not path.is_dir():
            raise
    finally:
        os.close(handle)


def settle(folder: Path) -> None:
    """Wait until all files of a new folder are on the disk, and give them the rights that the umask leaves.

    safetensors writes files that only their owner reads. The folder itself was made under the same umask.
    """
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file():
            path.chmod(folder.stat().st_mode & 0o666)
        sync(path)
    sync(folder)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents where they are missing, on the disk when this returns."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync(path.parent)


def put_in_place(temporary: Path, folder: Path) -> None:
    """Rename a new folder, whose files are on the disk before and its name after. One that has the name is removed.

    Args:
        temporary: lies beside `folder`.
    """
    settle(temporary)
    former = _set_aside(folder) if folder.exists() else None
    os.replace(temporary, folder)
    sync(folder.parent)
    if former is not None:
        shutil.rmtree(former, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder if it exists. It loses its name first: a kill leaves no folder that lacks some of its files.

    What cannot be removed stays.
    """
    with suppress(OSError):
        shutil.rmtree(_set_aside(folder), ignore_errors=True)


def _set_aside(folder: Path) -> Path:
    temporary = temporary_path(folder.parent, folder.name)
    os.replace(folder, temporary)
    return temporary


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically. NaN is refused, as JSON has no such number."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None: there is no such file, or it holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def create_json(path: Path, value: Any) -> bool:
    """Write indented JSON atomically unless the file exists, and return whether it was written.

    Of several processes at once exactly one writes.

    Raises:
        OSError: the file can be neither written nor found.
    """
    make_folder(path.parent)
    temporary = temporary_path(path.parent, path.name)
    try:
        write_json(temporary, value)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return True


def check_writable(folder: Path, name: str | None = None) -> None:
    """Refuse the folder of `--output` if nothing can be written to it, or to the nearest parent that exists.

    Args:
        name: of the flag with its value, for messages. None: `--output` with the folder.

    Raises:
        InputError: nothing can be written there.
    """
    home = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    try:
        probe = temporary_path(home, "writable")
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        name = name or f"--output {folder}"
        raise InputError(f"{printable(f'{name}: nothing can be written to {home}')} ({error.strerror})") from None


def check_writable_file(path: Path, flag: str = "--output") -> None:
    """Refuse the file of a flag if it cannot be written, before the work whose result it gets.

    Raises:
        InputError: it is a folder, it can have no such name, or nothing can be written to its folder.
    """
    name = printable(f"{flag} {path}")
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_folder = False
    except OSError as error:
        raise InputError(f"{name}: cannot be written ({error.strerror})") from None
    if is_folder:
        raise InputError(f"{name}: this is a folder, expected a file")
    check_writable(path.parent, name)


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Args:
        remedy: what the user can do, for the message.

    Raises:
        InputError: the file cannot be read, is not JSON in UTF-8, or holds no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    # json recurses into nested lists.
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({one_line(error)}); {remedy}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {short(content)}; {remedy}")
    return content


def parse_yaml(source: str | Path, where: str = "YAML") -> Any:
    """Parse YAML, or a file of it, into plain values; 1e-4 is a number, as in YAML 1.2 and JSON.

    Aliases are expanded, so that a few lines could stand for billions of values, or for a value that holds itself.
    Only so much of a file is read as may be in it: it may be a pipe or a device.

    Args:
        where: the flag of the YAML or file, for messages.

    Raises:
        InputError: the file cannot be read or is not YAML, or a mapping has a key twice; or the YAML is too long,
            nested too deep, or holds too many values, with those of its aliases.
    """
    import yaml

    try:
        if isinstance(source, Path):
            with source.open(encoding="utf-8") as file:
                source = file.read(MOST_YAML_CHARACTERS + 1)
        if len(source) <= MOST_YAML_CHARACTERS:
            return yaml.load(source, _strict_loader())
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from None
    # A ValueError: not UTF-8, or a number or date that is none.
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{where}: {one_line(error, most=300)}") from None
    raise InputError(f"{where}: expected at most {MOST_YAML_CHARACTERS:,} characters of YAML, got more")


@cache
def _strict_loader() -> type[Any]:
    """Return PyYAML's safe loader with limits, without duplicate keys, of which YAML silently takes the last."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        depth = values = 0

        def __init__(self, stream: Any) -> None:
            super().__init__(stream)
            self.sizes: dict[yaml.Node, int] = {}
            """Values in each node that is complete."""

        def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
            before, mark = self.values, self.peek_event().start_mark
            self.depth += 1
            if self.depth > MOST_YAML_DEPTH:
                raise self.refusal(f"it is nested more than {MOST_YAML_DEPTH} deep", mark)
            is_alias = self.check_event(yaml.AliasEvent)
            node = super().compose_node(parent, index)
            if node is not None and is_alias and node not in self.sizes:
                raise self.refusal("an alias (*) stands inside the value that it stands for", mark)
            self.values += self.sizes[node] if node is not None and is_alias else 1
            if self.values > MOST_YAML_VALUES:
                raise self.refusal(f"it holds more than {MOST_YAML_VALUES:,} values, with those of its aliases", mark)
            if node is not None:
                self.sizes.setdefault(node, self.values - before)
            self.depth -= 1
            return node

        def refusal(self, what: str, mark: yaml.Mark) -> yaml.YAMLError:
            return yaml.composer.ComposerError(None, None, what, mark)

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in keys:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
                keys |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
            return super().construct_mapping(node, deep)

    number = re.compile(r"^[-+]?([0-9]+|[0-9]*\.[0-9]+|[0-9]+\.)[eE][-+]?[0-9]+$")
    StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return StrictLoader


class ScratchFolder:
    """A temporary folder that is removed with the last reference to this object, or when the process ends.

    `tempfile.TemporaryDirectory` does so with a warning.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="hf-finetune-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
