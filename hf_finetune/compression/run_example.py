"""Compute logits or embeddings by example.py of an export: a script for a fresh process, without this package.

python run_example.py JOB.json     writes JOB.npz, what a function of it returns of each row
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np


def main(path: Path) -> None:
    """Run the example as a module, as a user does, row by row: padding may change logits of int8."""
    job = json.loads(path.read_text(encoding="utf-8"))
    spec = importlib.util.spec_from_file_location("example", Path(job["folder"], "example.py"))
    assert spec is not None and spec.loader is not None, "it is a Python file"
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    rows = [tuple(row) if isinstance(row, list) else row for row in job["rows"]]
    compute = vars(example)[job["function"]]
    np.savez(path.with_suffix(".npz"), *[compute([row])[0] for row in rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
