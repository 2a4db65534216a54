"""The output file of a benchmark: one line of JSON a measurement, so that the same command goes on where it stopped."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


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
            "at": time.strftime("%Y-%m-%d %H:%M:%S"),
            "took_s": round(time.time() - started, 1),
        }
        self.found[named] = line
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        shown = {k: round(v, 4) for k, v in record.items() if isinstance(v, float)} or record
        print(f"{line['took_s']:6.1f} s  {' '.join(map(str, key.values()))}  {shown}", file=sys.stderr)
        return None if "error" in record else line


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Measurements of a file; of several with one key, the last."""
    if not path.exists():
        return {}
    lines = (json.loads(line) for line in path.read_text().splitlines() if line.endswith("}"))
    return {json.dumps(line["key"], sort_keys=True): line for line in lines}
