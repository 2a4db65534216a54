"""Atomic writes, and strict YAML."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from hf_finetune.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, atomically as `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: if the process dies, `path` holds either its old or its new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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


def parse_yaml(text: str) -> Any:
    """Parse YAML into plain values; 1e-4 is a number, as in YAML 1.2 and JSON.

    Raises:
        ValueError: the text is not YAML, or a mapping has a key twice.
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
        return yaml.load(text, StrictLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
