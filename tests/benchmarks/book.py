"""The output file of a benchmark: one line of JSON a measurement, so that the same command goes on where it stopped.

Long lists of small numbers, such as the class predicted for each row, are stored as compressed bytes: files of results are
small enough to be kept in tests/benchmarks/results.
"""

import base64
import json
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hf_finetune.utils.environment import hardware, package_commit

PACKED_FROM = 64
"""Numbers of a list that is stored as bytes."""


class Failed(Exception):
    """A measurement's process did not end well; holds the end of what it said."""


class Book:
    """The output file: measurements by their key, each written as soon as it is there."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, read(path)

    def measure(self, key: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """The measurement named `key`, done now unless the file has it; None when it failed."""
        named = json.dumps(key, sort_keys=True)
        known = self.found.get(named)
        if known is not None and "error" not in known:
            return known
        started = time.time()
        try:
            record = work()
        except (Failed, OSError, ValueError, KeyError, IndexError) as failure:
            record = {"error": f"{type(failure).__name__}: {failure}"}
        line = {
            "key": key,
            **record,
            "cpu": hardware(torch.device("cpu"), 1)["cpu"],
            "commit": package_commit(),
            "at": time.strftime("%Y-%m-%d %H:%M:%S"),
            "took_s": round(time.time() - started, 1),
        }
        self.found[named] = line
        with self.path.open("a") as file:
            file.write(json.dumps(_packed(line)) + "\n")
        shown = {k: round(v, 4) for k, v in record.items() if isinstance(v, float)} or record
        print(f"{line['took_s']:6.1f} s  {' '.join(map(str, key.values()))}  {shown}", file=sys.stderr)
        return None if "error" in record else line


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Measurements of a file; of several with one key, the last."""
    if not path.exists():
        return {}
    written = (line for line in path.read_text().splitlines() if line.endswith("}"))
    lines = (json.loads(line, object_hook=_unpacked) for line in written)
    return {json.dumps(line["key"], sort_keys=True): line for line in lines}


def _packed(value: Any) -> Any:
    """A value with its long lists of numbers from 0 to 255 as bytes."""
    if isinstance(value, dict):
        return {name: _packed(each) for name, each in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) < PACKED_FROM or not all(isinstance(each, int) and 0 <= each < 256 for each in value):
        return [_packed(each) for each in value]
    return {"bytes": base64.b64encode(zlib.compress(bytes(value), 9)).decode()}


def _unpacked(value: dict[str, Any]) -> Any:
    return list(zlib.decompress(base64.b64decode(value["bytes"]))) if value.keys() == {"bytes"} else value
