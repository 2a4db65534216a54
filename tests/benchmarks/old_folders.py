"""Whether run folders that older code left still serve: predict, evaluate, card, push, and their recipes once more.

    python tests/benchmarks/golden.py --work DIR        # with the older code
    python tests/benchmarks/old_folders.py --work DIR   # with the code to be tested

Everything goes through the command line of the package on PYTHONPATH, or of the installed one, on a copy of each
folder. Probabilities and metrics must be those that the run recorded; a push goes to a Hub on the loopback interface,
which is the tests' own; a recipe.json that is run again must end with the same weights. Prints a line for each folder,
and leaves with status 1 when anything failed. The folders stay as they are."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from golden import PACKAGE, environment, tensors_hash, weight_files

sys.path.append(str(Path(__file__).parents[1]))

from helpers.hub_server import HubServer, hub_server

RERUN = ["adalora", "images_mixed", "student_of_hidden_states"]
"""Recipes with most kinds of fields: a PEFT config, nested operations, a teacher who is an old run himself."""
CLOSE = 1e-4
"""Furthest that a probability may lie from the recorded one; a run classifies in other batches."""


@dataclass(frozen=True)
class OldRun:
    """A copy of a run's folder, and what its commands need."""

    folder: Path
    work: Path
    """Folder that the paths in its recipe are relative to."""
    hub: HubServer

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """Fields of its recipe."""
        return json.loads((self.folder / "recipe.json").read_text(encoding="utf-8"))["recipe"]

    @property
    def data(self) -> list[str]:
        """Arguments that name its data."""
        named = {name: self.recipe["data"].get(name) for name in ("text", "text_pair", "image", "label", "encoding")}
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in named.items() if value is not None]
        return [self.recipe["data"]["path"], *flags]

    def command(self, *arguments: str | Path, **own: str) -> str:
        """What a command prints.

        Raises:
            RuntimeError: it failed, with the end of what it said.
        """
        cache = str(self.folder.parent / f"{self.folder.name}-cache")
        done = subprocess.run(
            [*PACKAGE, *map(str, arguments)],
            cwd=self.work,
            env=environment(HF_FINETUNE_CACHE=cache, **own),
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError("\n".join(done.stderr.splitlines()[-5:]))
        return done.stdout


def predict(run: OldRun) -> None:
    """Every row that the run recorded has the same probabilities."""
    output = run.folder.with_suffix(".parquet")
    run.command("predict", run.folder, *without_label(run.data), "--precision", "float32", "--output", output)
    recorded = pq.read_table(run.folder / "predictions.parquet", filters=[("split", "==", "test")]).to_pandas()
    predicted = pq.read_table(output).to_pandas().set_index("row").loc[recorded["row"]]
    classes = [name for name in recorded.columns if name.startswith("p:")]
    furthest = float(np.abs(predicted[classes].to_numpy() - recorded[classes].to_numpy()).max())
    expect(furthest <= CLOSE, f"probabilities differ by {furthest:.2g} from those of the run")


def without_label(data: list[str]) -> list[str]:
    """Rows to be labelled need no column of labels, and none is named."""
    return [argument for argument in data if not argument.startswith("--label=")]


def evaluate(run: OldRun) -> None:
    """The accuracy on test rows is that of the run, where these are files of their own."""
    scored = json.loads(run.command("evaluate", run.folder, *run.data, "--json"))["metrics"]["accuracy"]
    recorded = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))["metrics"]["test"]["accuracy"]
    carved = run.recipe["data"]["test_fraction"] > 0
    expect(carved or scored["value"] == recorded["value"], f"accuracy {scored['value']}, was {recorded['value']}")


def card(run: OldRun) -> None:
    """The card is rendered again."""
    text = run.command("card", run.folder)
    expect(text == (run.folder / "README.md").read_text(encoding="utf-8"), "README.md is not what was printed")
    expect(run.recipe["name"] in text, "no name on the card")


def push(run: OldRun) -> None:
    """The folder is pushed, which pulls it back and compares."""
    home = run.folder.parent / f"{run.folder.name}-home"
    printed = run.command("push", run.folder, f"tester/{run.folder.name}", **run.hub.environment(home))
    expect(printed.strip().endswith(run.folder.name), f"expected the address, got {printed!r}")


def rerun(run: OldRun) -> None:
    """The recipe ends with the same weights once more."""
    config, output = run.folder.with_suffix(".yaml"), run.folder.parent / f"{run.folder.name}-again"
    config.write_text(yaml.safe_dump(run.recipe), encoding="utf-8")
    run.command("train", run.recipe["data"]["path"], "--config", config, "--output", output)
    before, after = (
        {file.relative_to(folder): tensors_hash(file) for file in weight_files(folder)}
        for folder in (run.folder, output)
    )
    expect(before == after, "other weights")


def expect(holds: bool, message: str) -> None:
    """Refuse what a command did.

    Raises:
        RuntimeError: it does not hold.
    """
    if not holds:
        raise RuntimeError(message)


def failures(run: OldRun) -> list[str]:
    """What failed of all that a folder should serve for."""
    checks: list[Callable[[OldRun], None]] = [predict, evaluate, card, push]
    if run.folder.name in RERUN:
        checks.append(rerun)
    found = []
    for check in checks:
        try:
            check(run)
        except (RuntimeError, LookupError, ValueError, OSError) as error:
            found.append(f"{check.__name__}: {error}")
    return found


def main() -> None:
    """Copy each folder, use it, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="what golden.py kept")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these folders")
    parser.add_argument("--workers", type=int, default=2, help="folders at a time")
    options = parser.parse_args()
    work = options.work.absolute()
    names = options.only or sorted(folder.name for folder in (work / "runs").iterdir())
    package = importlib.util.find_spec("hf_finetune")
    print(f"{len(names)} folders for {package and package.origin}", flush=True)

    with tempfile.TemporaryDirectory() as temporary, hub_server() as hub, ThreadPoolExecutor(options.workers) as pool:

        def use(name: str) -> tuple[str, list[str], float]:
            started = time.monotonic()
            folder = shutil.copytree(work / "runs" / name, Path(temporary) / name)
            found = failures(OldRun(folder, work, hub))
            shutil.rmtree(folder)
            return name, found, time.monotonic() - started

        failed = []
        for name, found, seconds in pool.map(use, names):
            print("\n    ".join([f"{name:26}{'FAILED' if found else 'ok':6} {seconds:6.1f} s", *found]), flush=True)
            failed += [name] if found else []
    raise SystemExit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
