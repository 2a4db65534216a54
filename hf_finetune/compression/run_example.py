"""Compute logits or embeddings by example.py of an export: a script for a fresh process, without this package.

python run_example.py JOB.json     writes JOB.npz, what a function of it returns of each row
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(path: Path) -> None:
    """Run the example as a module, as a user does, row by row: padding may change logits of int8."""
    job = json.loads(path.read_text(encoding="utf-8"))
    file = Path(job["folder"], "example.py")
    example: dict[str, Any] = {"__name__": "example", "__file__": str(file)}
    # An import would leave bytecode in the folder, which is code, and never pushed.
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), example)
    rows = [tuple(row) if isinstance(row, list) else row for row in job["rows"]]
    compute = example[job["function"]]
    np.savez(path.with_suffix(".npz"), *[compute([row])[0] for row in rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
