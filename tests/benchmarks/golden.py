"""Whether a change of the code changes what runs compute: twenty-four short runs with fixed seeds, and their hashes.

    python tests/benchmarks/golden.py --output before.json
    python tests/benchmarks/golden.py --against before.json [--only NAME ...]

Runs the recipes of golden.yaml on the inputs of golden_inputs.py, through the command line of the package on
PYTHONPATH, or of the installed one; nothing of it is imported. What is hashed: the loss of every step, the tensors of
every safetensors file that a run leaves, the columns of its predictions.parquet, and the numbers of its result.json
that do not measure the machine. `--against` prints every difference and leaves with status 1 when there is one. Hashes
hold for one machine with one set of libraries."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import golden_inputs
import pyarrow.parquet as pq
import yaml

PACKAGE = [sys.executable, "-m", "hf_finetune"]
STOPPED = 3
"""Exit status of a run that a signal stopped."""
COMPUTED = re.compile(
    r"labels|rows|metrics|baselines|calibration|confused|parity|standalone|artefacts|data|augmentation|elastic_net|pretrain|"
    r"teacher|learning_rate|best|steps|parameters|head|cache"
)
"""Sections of result.json that a run computes."""
# pretrain.compare trains its other side for as long as the clock says.
MEASURED = re.compile(r"(_s|_mb|\.mb|seconds|max_abs_difference)$|^pretrain\.without\.")
"""Keys in them that the clock, the machine or rounding decides."""
NAMES = re.compile(r"^(labels|artefacts)\.|^best\..*weights$|\.(label|predicted|verdict)$")
"""Keys in them whose texts count; the others are prose and paths."""

Leaf = str | float | bool | None


@dataclass(frozen=True)
class Run:
    """A run of golden.yaml, see there."""

    name: str
    command: str
    recipe: dict[str, Any]
    needs: str | None = None
    stop_at: int | None = None


@dataclass(frozen=True)
class Golden:
    """What a run computed, by name."""

    losses: dict[str, Leaf]
    weights: dict[str, Leaf]
    predictions: dict[str, Leaf]
    result: dict[str, Leaf]
    seconds: float

    @property
    def parts(self) -> dict[str, dict[str, Leaf]]:
        """What is compared."""
        return {name: part for name, part in vars(self).items() if name != "seconds"}

    def __str__(self) -> str:
        hashes = (f"{part}:{sha256(json.dumps(held, sort_keys=True))[:8]}" for part, held in self.parts.items())
        return f"{'  '.join(hashes)}  {self.seconds:5.1f} s"


# What is run


def read_runs(only: list[str]) -> list[Run]:
    """The runs of golden.yaml.

    Args:
        only: names of some, which come with those that they need; empty: all.
    """
    described = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    common, runs = described["common"], described["runs"]
    if unknown := set(only) - set(runs):
        raise SystemExit(f"--only: expected names among {', '.join(runs)}, got {', '.join(sorted(unknown))}")
    chosen = {*(only or runs), *(runs[name].get("needs") for name in only)}
    return [
        Run(name, **{**run, "recipe": merged(common, run["recipe"])}) for name, run in runs.items() if name in chosen
    ]


def merged(common: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Fields of a recipe over the common ones, section by section."""
    return {**common, **{name: {**common[name], **value} if name in common else value for name, value in own.items()}}


def perform_all(runs: list[Run], work: Path, workers: int) -> Iterator[tuple[str, Golden | RuntimeError]]:
    """What each run computed, or why it failed, in their order; several run at a time."""
    futures: dict[str, Future[Golden]] = {}

    def perform_in_turn(run: Run) -> Golden:
        if run.needs is not None:
            futures[run.needs].result()
        return perform(run, work)

    with ThreadPoolExecutor(workers) as pool:
        for run in runs:
            futures[run.name] = pool.submit(perform_in_turn, run)
        for name, future in futures.items():
            error = future.exception()
            yield name, error if isinstance(error, RuntimeError) else future.result()


def perform(run: Run, work: Path) -> Golden:
    """Run it in a process of its own, with nothing cached before.

    Raises:
        RuntimeError: with the end of what it said.
    """
    output, cache = work / "runs" / run.name, work / "cache" / run.name
    for folder in (output, cache):
        shutil.rmtree(folder, ignore_errors=True)
    recipe, log = work / "recipes" / f"{run.name}.yaml", work / "logs" / f"{run.name}.log"
    for file in (recipe, log):
        file.parent.mkdir(exist_ok=True)
    recipe.write_text(yaml.safe_dump({"name": run.name, **run.recipe}, sort_keys=False), encoding="utf-8")
    arguments = [*shlex.split(run.command), "--config", str(recipe), "--output", str(output)]
    started = time.monotonic()
    process = start(arguments, work, cache, log)
    if run.stop_at is not None:
        expect(STOPPED, stop(process, output / "log.jsonl", run.stop_at), log)
        process = start([*arguments, "--resume"], work, cache, log)
    expect(0, process.wait(), log)
    return Golden(
        losses(output / "log.jsonl"),
        {file.relative_to(output).as_posix(): tensors_hash(file) for file in weight_files(output)},
        columns_hashes(output / "predictions.parquet"),
        computed(json.loads((output / "result.json").read_text(encoding="utf-8"))),
        round(time.monotonic() - started, 1),
    )


def start(arguments: list[str], work: Path, cache: Path, log: Path) -> subprocess.Popen[bytes]:
    """A process of the package that adds all it says to `log`."""
    with log.open("a", encoding="utf-8") as said:
        command, own = [*PACKAGE, *arguments], environment(HF_FINETUNE_CACHE=str(cache))
        return subprocess.Popen(command, cwd=work, env=own, stdout=said, stderr=subprocess.STDOUT)


def environment(**own: str) -> dict[str, str]:
    """Of a process of the package: one thread wide, without a network, and able to run in another folder."""
    searched = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, searched)),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        **own,
    }


def stop(process: subprocess.Popen[bytes], log: Path, step: int) -> int:
    """Send SIGTERM once a step is logged; returns the exit status."""
    while process.poll() is None:
        if log.exists() and f'"step": {step},' in log.read_text(encoding="utf-8"):
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.02)
    return process.wait()


def expect(status: int, left_with: int, log: Path) -> None:
    """Hold a process to the status that it leaves with."""
    if left_with != status:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        raise RuntimeError(f"left with status {left_with}, expected {status}; {log} ends:\n{end}")


# What is hashed


def sha256(text: str) -> str:
    """In hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def losses(log: Path) -> dict[str, Leaf]:
    """The training loss at each step."""
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return {f"step {line['step']}": line["loss"] for line in lines if "loss" in line}


def weight_files(output: Path) -> list[Path]:
    """Weights that a run leaves, but for those of the side that it only compares with."""
    return [file for file in sorted(output.rglob("*.safetensors")) if "without" not in file.relative_to(output).parts]


def tensors_hash(file: Path) -> str:
    """Of the tensors of a safetensors file, by name: whatever their order there, and whatever else it tells."""
    content = file.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    header.pop("__metadata__", None)
    sha = hashlib.sha256()
    for name, tensor in sorted(header.items()):
        first, last = tensor["data_offsets"]
        sha.update(json.dumps([name, tensor["dtype"], tensor["shape"]]).encode())
        sha.update(content[begin + first : begin + last])
    return sha.hexdigest()


def columns_hashes(file: Path) -> dict[str, Leaf]:
    """Of the exact values in each column of a parquet file."""
    return {name: sha256(repr(values)) for name, values in pq.read_table(file).to_pydict().items()}


def computed(result: dict[str, Any]) -> dict[str, Leaf]:
    """Numbers and names that a run computes, each by its path in result.json."""
    leaves = flattened({section: value for section, value in result.items() if COMPUTED.fullmatch(section)})
    return {
        path: value
        for path, value in leaves
        if not MEASURED.search(path) and (NAMES.search(path) or not isinstance(value, str))
    }


def flattened(value: Any, path: str = "") -> Iterator[tuple[str, Leaf]]:
    """Leaves of nested lists and dicts, by dotted path."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flattened(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def differences(before: Golden, after: Golden) -> Iterator[str]:
    """A line for each value that is another now."""
    for part, old in before.parts.items():
        new = after.parts[part]
        for key in sorted(old.keys() | new.keys()):
            if (was := old.get(key, "absent")) != (now := new.get(key, "absent")):
                yield f"{part}: {key}: {was} -> {now}"


def main() -> None:
    """Run, print, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write what the runs computed")
    parser.add_argument("--against", type=Path, metavar="FILE.json", help="compare with what was written before")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep inputs, recipes, logs and run folders here")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="these runs, and those that they need")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    options = parser.parse_args()
    runs = read_runs(options.only)
    before = json.loads(options.against.read_text(encoding="utf-8")) if options.against is not None else {}
    package = importlib.util.find_spec("hf_finetune")
    print(f"{len(runs)} runs of {package and package.origin}", flush=True)

    after: dict[str, Golden] = {}
    wrong = []
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).absolute()
        shutil.rmtree(work / "inputs", ignore_errors=True)
        golden_inputs.write(work / "inputs")
        for name, golden in perform_all(runs, work, options.workers):
            if isinstance(golden, RuntimeError):
                print(f"{name:26}{golden}", flush=True)
                wrong.append(name)
                continue
            after[name] = golden
            changed = list(differences(Golden(**before[name]), golden)) if name in before else []
            print("\n    ".join([f"{name:26}{golden}", *changed]), flush=True)
            if changed:
                wrong.append(name)
    if options.output is not None:
        written = {name: dataclasses.asdict(golden) for name, golden in after.items()}
        options.output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    if options.against is not None:
        wrong += [f"{name} (new)" for name in after if name not in before]
    raise SystemExit(f"not as expected: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
