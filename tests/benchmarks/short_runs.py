"""Short runs for `crash.py` and `soak.py`: their files and commands, one or two processes, and what they ended with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from helpers.forks import Child
from helpers.small_runs import text_rows
from helpers.tiny import tiny_text_checkpoint
from torch.distributed import TCPStore

from hf_finetune.training.callbacks import read_log
from hf_finetune.utils import hashing
from hf_finetune.utils.files import is_temporary

# Without the measurement of the processor, which takes a second and touches no weight.
COMMAND = (
    "import sys; from helpers import gate; gate.run_here(); "
    "from hf_finetune.training import flops; flops.gemm_peak = lambda *_, **__: 1e9; "
    "from hf_finetune.cli.main import main_command; main_command(sys.argv[1:])"
)
# Six steps in two epochs, with four checkpoints, of which old ones are deleted.
SHORT = (
    *("--epochs", "2", "--max-length", "32", "--max-train-rows", "24", "--train.per-device-train-batch-size", "8"),
    *("--train.save-steps", "2", "--evaluate.resamples", "100", "--evaluate.no-baselines"),
)
KINDS: dict[str, tuple[str, ...]] = {
    "full": (),
    "lora": ("--method", "lora"),
    "top": ("--method", "top"),
    "distill": ("--teacher", "{home}/teacher"),
}
# After one process of a run has failed, torchrun ends the others by SIGTERM, and after this time by SIGKILL.
GRACE_SECONDS, HANGS_AFTER_SECONDS = 30.0, 600.0


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    """Of the first process that failed; negative: a signal."""
    stderr: str

    @property
    def has_traceback(self) -> bool:
        """Whether anything else than lines for a user was printed."""
        return "Traceback (most recent call last)" in self.stderr

    @property
    def last_line(self) -> str:
        """The line that says why."""
        return next((line for line in reversed(self.stderr.splitlines()) if line.strip()), "")


@dataclass
class Command:
    """A command that runs, in one process or in two that have found each other.

    Args:
        arguments: of hf-finetune.
        folder: for its output.
        cache: folder of the disk cache.
        before: code and its first arguments for each process, to run before the command.
    """

    arguments: Sequence[Any]
    folder: Path
    cache: Path
    before: Sequence[tuple[str, Sequence[str]]] = (("", ()),)
    children: list[Child] = field(default_factory=list)

    def __post_init__(self) -> None:
        shared = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_FINETUNE_CACHE": str(self.cache)}
        if len(self.before) > 1:
            self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=5))
            shared |= {"WORLD_SIZE": str(len(self.before)), "MASTER_ADDR": "127.0.0.1"}
            shared |= {"MASTER_PORT": str(self._store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
            shared |= {"TORCHELASTIC_RESTART_COUNT": "0"}
        for rank, (code, given) in enumerate(self.before):
            mine = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if len(self.before) > 1 else {}
            child = Child(
                code + COMMAND,
                *given,
                *self.arguments,
                environment=dict(os.environ) | shared | mine,
                cwd=self.folder,
                stdout=self.folder / f"stdout-{rank}",
                stderr=self.folder / f"stderr-{rank}",
            )
            self.children.append(child)

    @property
    def is_running(self) -> bool:
        """Whether a process is left."""
        return any([child.poll() is None for child in self.children])

    def wait(self) -> Ended:
        """Wait for all processes; when one fails, end the others as torchrun does.

        Raises:
            TimeoutError: it hangs.
        """
        started, first, failed_at = time.monotonic(), 0, 0.0
        while self.is_running:
            first = first or next((c.returncode for c in self.children if c.returncode), 0)
            if first and not failed_at:
                failed_at = time.monotonic()
                self.send(signal.SIGTERM)
            if failed_at and time.monotonic() > failed_at + GRACE_SECONDS:
                self.send(signal.SIGKILL)
            if time.monotonic() > started + HANGS_AFTER_SECONDS:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"hf-finetune {' '.join(map(str, self.arguments))}")
            time.sleep(0.02)
        first = first or next((c.returncode for c in self.children if c.returncode), 0)
        files = [self.folder / f"stderr-{rank}" for rank in range(len(self.children))]
        # On a full disk a process may end before it can open its file.
        return Ended(first, "\n".join(file.read_text(errors="replace") for file in files if file.exists()))

    @property
    def processes(self) -> list[int]:
        """Numbers of the processes that are left."""
        return [child.pid for child in self.children if child.poll() is None]

    def send(self, number: int) -> None:
        """Send a signal to the processes that are left."""
        for pid in self.processes:
            os.kill(pid, number)


class LaunchedCommand:
    """A command of a new interpreter, which may launch others.

    Args:
        arguments, folder, cache: see `Command`.
    """

    def __init__(self, arguments: Sequence[Any], folder: Path, cache: Path) -> None:
        self._stderr = folder / "stderr"
        environment = dict(os.environ) | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        environment["HF_FINETUNE_CACHE"] = str(cache)
        with self._stderr.open("wb") as file:
            self._launcher = subprocess.Popen(
                [sys.executable, "-m", "hf_finetune", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        self._seen: set[psutil.Process] = set()

    @property
    def is_running(self) -> bool:
        """Whether the launcher is left."""
        if is_left := self._launcher.poll() is None:
            with suppress(psutil.NoSuchProcess):
                self._seen |= {*psutil.Process(self._launcher.pid).children(recursive=True)}
        return is_left

    @property
    def processes(self) -> list[int]:
        """Numbers of the launcher, and of the processes that it has launched."""
        ranks = [process.pid for process in self._seen if process.is_running() and _is_rank(process)]
        return [self._launcher.pid, *sorted(ranks)]

    def wait(self) -> Ended:
        """Wait for the launcher, and for what it has launched.

        Raises:
            TimeoutError: a process hangs.
        """
        until = time.monotonic() + HANGS_AFTER_SECONDS
        while (self.is_running or any(map(_is_alive, self._seen))) and time.monotonic() < until:
            time.sleep(0.05)
        if time.monotonic() > until:
            os.killpg(self._launcher.pid, signal.SIGKILL)
            raise TimeoutError(f"{self._stderr} and what it launched")
        return Ended(self._launcher.returncode, self._stderr.read_text(errors="replace"))


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _is_rank(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "RANK" in process.environ()
    return False


def write_inputs(home: Path) -> None:
    """Write rows, a checkpoint, and a run that is a teacher."""
    home.mkdir(parents=True, exist_ok=True)
    rows = [f"{row['text']},{('bad', 'good')[row['label']]}" for row in text_rows(60)]
    (home / "rows.csv").write_text("\n".join(["text,label", *rows]))
    tiny_text_checkpoint(home / "bert")
    command = [
        "train",
        home / "rows.csv",
        "--model",
        home / "bert",
        *SHORT,
        "--seed",
        "9",
        "--output",
        home / "teacher",
    ]
    ended = Command(command, home, home / "cache").wait()
    if ended.status:
        raise SystemExit(ended.stderr)


def training(home: Path, kind: str, output: Path, *, seed: int = 0) -> list[Any]:
    """The arguments of a run of a kind of `KINDS`."""
    flags = [flag.format(home=home) for flag in KINDS[kind]]
    common = ["train", home / "rows.csv", "--model", home / "bert", *SHORT, "--seed", str(seed)]
    return [*common, *flags, "--output", output]


def outcome(run: Path) -> dict[str, Any]:
    """What a finished run must have in common with another one: hashes of its files, and what it measured.

    Raises:
        FileNotFoundError: a file of a finished run is missing.
    """
    result = json.loads((run / "result.json").read_text())
    same = ("metrics", "calibration", "best", "steps", "labels", "rows", "artifacts", "parity", "confused")
    hashes = {name: hashing.of_files(run / name) for name in ("predictions.parquet", *result["artifacts"])}
    assert (run / "README.md").stat().st_size and (run / "recipe.json").stat().st_size
    # A run that had only its evaluation left to do logs no summary of its training.
    steps = sorted({line["step"] for line in read_log(run / "log.jsonl")})
    return {"files": hashes, "logged steps": steps, **{name: result[name] for name in same}}


def difference(run: Path, twin: dict[str, Any]) -> str:
    """What is wrong with a finished run that should be like its undisturbed twin; empty: nothing."""
    try:
        mine = outcome(run)
    except (OSError, ValueError, AssertionError, LookupError) as error:
        return f"unfinished: {error!r}"
    if others := [name for name in twin if mine[name] != twin[name]]:
        return f"differs: {', '.join(others)}"
    left = [str(path.relative_to(run)) for path in run.rglob("*") if is_temporary(path) or path.name == "checkpoints"]
    return f"left behind: {', '.join(left)}" if left else ""


def disagreement(run: Path, home: Path, twin: Path, folder: Path, cache: Path) -> str:
    """What is wrong with a finished run by `verify`, and by `predict` beside its twin; empty: nothing."""
    verified = Command(["verify", run], folder, cache).wait()
    if verified.status:
        return f"verify: {verified.last_line}"
    return _other_predictions(run, home, twin, folder, cache)


def _other_predictions(run: Path, home: Path, twin: Path, folder: Path, cache: Path) -> str:
    mine, expected = folder / "predicted.csv", twin.parent / f"{twin.name}.csv"
    if not expected.exists():
        Command(["predict", twin, home / "rows.csv", "--output", expected], folder, cache).wait()
    mine.unlink(missing_ok=True)
    ended = Command(["predict", run, home / "rows.csv", "--output", mine], folder, cache).wait()
    if ended.has_traceback:
        return f"predict: traceback, {ended.last_line}"
    if ended.status:
        return f"predict: {ended.last_line}"
    return "" if mine.read_bytes() == expected.read_bytes() else "predict: other predictions"
