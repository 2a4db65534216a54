"""Atomic writes, and strict YAML."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_finetune.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, atomically as `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: if the process dies, `path` holds either its old or its new content."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file, which is moved to `path` when the block succeeds.

    It lies in the nearest folder that exists; missing folders are created at the end.
    """
    home = next(parent for parent in path.absolute().parents if parent.exists())
    handle, name = tempfile.mkstemp(dir=home, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically. NaN is refused, as JSON has no such number."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def check_writable(folder: Path) -> None:
    """Refuse the folder of `--output` if nothing can be written to it, or to the nearest parent that exists.

    Raises:
        InputError: nothing can be written there.
    """
    home = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        os.rmdir(tempfile.mkdtemp(dir=home))
    except OSError as error:
        raise InputError(f"--output {folder}: nothing can be written to {home} ({error.strerror})") from None


def parse_yaml(source: str | Path, where: str = "YAML") -> Any:
    """Parse YAML, or a file of it, into plain values; 1e-4 is a number, as in YAML 1.2 and JSON.

    Args:
        where: the flag of the YAML or file, for messages.

    Raises:
        InputError: the file cannot be read or is not YAML, or a mapping has a key twice.
    """
    import yaml

    class StrictLoader(yaml.SafeLoader):
        """Refuses duplicate keys, of which YAML silently takes the last."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for i, key in enumerate(keys):
                if key.value in [earlier.value for earlier in keys[:i]]:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            return super().construct_mapping(node, deep)

    number = re.compile(r"^[-+]?([0-9]+|[0-9]*\.[0-9]+|[0-9]+\.)[eE][-+]?[0-9]+$")
    StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        return yaml.load(source.read_text("utf-8") if isinstance(source, Path) else source, StrictLoader)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from None
