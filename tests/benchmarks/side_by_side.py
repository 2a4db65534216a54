"""Two runs on the same cores against one alone, with and without `utils/core_sharing`.

    python tests/benchmarks/side_by_side.py DATA [--rounds 3] [--rows 2000] [--alone] [-- further arguments of hf-finetune train]

Each round runs, in turns: one run that shares its cores, one that does not (`GOMP_SPINCOUNT` at OpenMP's default
switches it off), two at once that share; the first round also two at once that do not, which takes long. It prints the training rows per second of each, the
ratios to one run alone that does not share, and whether all runs have the same weights. Leave the machine otherwise
idle.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from hf_finetune.utils.hashing import of_files

SPIN = {"GOMP_SPINCOUNT": "300000"}


def start(folder: Path, data: str, rows: int, more: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a run in `folder`."""
    command = ["train", data, "--output", str(folder), "--max-train-rows", str(rows), "--epochs", "1", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "hf_finetune", *command],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=(folder.parent / f"{folder.name}.log").open("wb"),
    )


def measure(root: Path, number: int, *arguments: object) -> tuple[list[float], list[str]]:
    """Run `number` runs at once; return their rows per second and the digests of their weights."""
    folders = [root / f"run-{i}" for i in range(number)]
    root.mkdir()
    processes = [start(folder, *arguments) for folder in folders]  # type: ignore[arg-type]
    for process, folder in zip(processes, folders, strict=True):
        if process.wait() != 0:
            sys.exit((root / f"{folder.name}.log").read_text())
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    weights = [of_files(folder / "model" / "model.safetensors") for folder in folders]
    return [result["throughput"]["train_rows_per_s"] for result in results], weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--alone", action="store_true", help="only the runs of one")
    own = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, more = parser.parse_args(sys.argv[1:own]), sys.argv[own + 1 :]
    settings: dict[str, tuple[int, dict[str, str]]] = {
        "one, shares": (1, {}),
        "one, spins": (1, SPIN),
        "two, share": (2, {}),
        "two, spin": (2, SPIN),
    }
    speeds: dict[str, list[float]] = {name: [] for name in settings}
    digests: set[str] = set()
    with tempfile.TemporaryDirectory() as work:
        measure(Path(work) / "first", 1, arguments.data, arguments.rows, more, {})  # fills the caches
        for i in range(arguments.rounds):
            for name, (number, environment) in settings.items():
                if (number == 2 and arguments.alone) or (i > 0 and name == "two, spin"):
                    continue
                root = Path(work) / f"{i}-{name}"
                each, weights = measure(root, number, arguments.data, arguments.rows, more, environment)
                speeds[name].append(sum(each))
                digests.update(weights)
                print(f"round {i + 1}, {name}: {' + '.join(f'{value:.1f}' for value in each)} rows/s", flush=True)
    alone = statistics.median(speeds["one, spins"])
    for name, values in ((name, values) for name, values in speeds.items() if values):
        print(
            f"{name}: {statistics.median(values):.1f} rows/s in all, {statistics.median(values) / alone:.1%} of one that spins"
        )
    print("the same weights in all runs" if len(digests) == 1 else f"{len(digests)} different weights")


if __name__ == "__main__":
    main()
