"""A damage with the command that meets it, undamaged files to damage, and how the command ended."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.forks import Child
from helpers.hub_server import HubServer
from helpers.small_runs import text_rows
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint

from hostile.image_bombs import solid_images

MOST_SECONDS, MOST_MB, HANGS_AFTER_S = 10.0, 1000, 600
# The command, with the most memory that its process had, and a limit that protects the machine.
COMMAND = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
from helpers import gate
gate.run_here()
memory, disk, *arguments = sys.argv[1:]
if int(disk):
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(disk), resource.RLIM_INFINITY))
from hf_finetune.cli.main import main_command
def high_water():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
open("/proc/self/clear_refs", "w").write("5")
before = high_water()
try:
    main_command(arguments)
finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    used = resource.getrusage(resource.RUSAGE_SELF)
    open(memory, "w").write(f"{(high_water() - before) // 1024} {used.ru_utime + used.ru_stime}")
"""


@dataclass(frozen=True)
class Attack:
    """A damage, and the command that meets it."""

    name: str
    prepare: Callable[[Bench], list[Any]]
    """Damages files in the folder of the attack, and returns the arguments of the command."""
    allowed: tuple[int, ...] = (2,)
    largest_file: int = 0
    """Size in bytes beyond which writes fail; 0: no limit."""
    needs_hub: bool = False

    @property
    def kind(self) -> str:
        """What is damaged, for the table."""
        return "push" if self.needs_hub else self.name.replace(" is ", ", ", 1).split(",")[0]


@dataclass(frozen=True)
class Bench:
    """Undamaged files, and a folder for the copies that an attack damages."""

    home: Path
    folder: Path

    @property
    def data(self) -> Path:
        return self.home / "rows.csv"

    def copy(self, name: str) -> Path:
        """A copy of the checkpoint or of a run."""
        return Path(shutil.copytree(self.home / name, self.folder / name))

    def train(self, *arguments: Any, checkpoint: Path | None = None) -> list[Any]:
        """Arguments of a short run."""
        output = ["--output", self.folder / "out", "--epochs", "1", "--max-length", "32"]
        return ["train", self.data, "--model", checkpoint or self.home / "bert", *output, *arguments]

    def predict(self, model: Path) -> list[Any]:
        """Arguments that label the rows."""
        return ["predict", model, self.data, "--output", self.folder / "predicted.csv"]

    def read(self, command: str, data: Path, checkpoint: Path, run: Path) -> list[Any]:
        """Arguments that read data with a checkpoint, or with a finished run."""
        if command == "predict":
            return ["predict", run, data, "--output", self.folder / "predicted.csv"]
        if command == "evaluate":
            return ["evaluate", run, data]
        length = [] if data.is_dir() else ["--max-length", "32"]
        output = ["--output", self.folder / "out"] if command == "train" else []
        return [command, data, "--model", checkpoint, *length, *output]


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int | None
    """None: it was killed, as it did not end."""
    seconds: float
    """Of the processor: the machine may be busy."""
    megabytes: int
    stderr: str
    has_pushed: bool = False

    def verdict(self, attack: Attack) -> str:
        """What is wrong with it; empty: nothing."""
        if self.status is None or self.status < 0:
            return "HANGS"
        lines = self.stderr.splitlines()
        wrong = ["TRACEBACK"] if "Traceback" in self.stderr or "Error:" in self.stderr[:40] else []
        wrong += [] if self.status in attack.allowed else ["STATUS"]
        # One that comes after the training follows its lines.
        wrong += [] if self.status in (0, 1) or len(lines) == 1 or lines[-1].startswith("parity: ") else ["LINES"]
        wrong += ["PUSHED"] if self.has_pushed and self.status != 0 else []
        wrong += [] if self.seconds <= MOST_SECONDS else ["SLOW"]
        wrong += [] if self.megabytes <= MOST_MB else ["MEMORY"]
        return " ".join(wrong)


def execute(
    arguments: list[Any], folder: Path, largest_file: int = 0, hub: tuple[HubServer, Path] | None = None
) -> Outcome:
    """Run a command in a process of its own.

    Args:
        hub: a Hub that it may use, and the home of its caches.
    """
    names = {name: folder / name for name in ("stdout", "stderr", "memory")}
    environment = dict(os.environ) | {"HF_HUB_OFFLINE": "1", "HF_FINETUNE_CACHE": str(folder / "cache")}
    if hub is not None:
        hub[0].repos.clear()
        environment |= hub[0].environment(hub[1])
    started = time.monotonic()
    child = Child(
        COMMAND,
        *(names["memory"], str(largest_file), *map(str, arguments)),
        environment=environment,
        cwd=folder,
        stdout=names["stdout"],
        stderr=names["stderr"],
    )
    while time.monotonic() < started + HANGS_AFTER_S and child.poll() is None:
        time.sleep(0.02)
    status, seconds = child.returncode, time.monotonic() - started
    child.kill()
    used = names["memory"].read_text().split() if names["memory"].exists() else ["0", str(seconds)]
    said = names["stderr"].read_text(errors="replace") if names["stderr"].exists() else ""
    pushed = hub is not None and any(len(repo.commits) > 1 for repo in hub[0].repos.values())
    return Outcome(status, float(used[1]), int(used[0]), said, pushed)


def prepare(home: Path) -> None:
    """Write the undamaged files that are not there: rows, checkpoints, and runs of each kind, one with only an adapter."""
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "vit").exists():
        rows = [f"{row['text']},{('bad', 'good')[row['label']]}" for row in text_rows(60)]
        (home / "rows.csv").write_text("\n".join(["text,label", *rows]))
        for name, cells in (("tags", tagged()), ("numbers", numbered())):
            jsonl(home / f"{name}.jsonl", cells)
        tiny_text_checkpoint(home / "bert")
        (home / "image_rows").mkdir()
        solid_images(home / "image_rows")
        tiny_image_checkpoint(home / "vit")
    short = ["--epochs", "1"]
    texts = ["--model", home / "bert", "--max-length", "32", *short]
    runs = {
        "full": [home / "rows.csv", *texts, "--train.keep-checkpoints"],
        "prompt": [home / "rows.csv", *texts, "--adapter", "PROMPT_TUNING"],
        "images": [home / "image_rows" / "images", "--model", home / "vit", *short],
        "tags": [home / "tags.jsonl", *texts],
        "numbers": [home / "numbers.jsonl", *texts],
    }
    for name, arguments in runs.items():
        if (home / name / "result.json").exists():
            continue
        with tempfile.TemporaryDirectory() as folder:
            done = execute(["train", *arguments, "--output", home / name], Path(folder))
        if done.status != 0:
            raise SystemExit(f"{name}: {done.stderr}")


def jsonl(path: Path, labels: Sequence[Any]) -> Path:
    """Write a row for each label."""
    rows = ({"text": f"some text {i}", "label": label} for i, label in enumerate(labels))
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def tagged(count: int = 60) -> list[Any]:
    """Labels of up to three tags."""
    return [[f"t{j}" for j in range(3) if (i >> j) % 2] for i in range(count)]


def numbered(count: int = 60) -> list[Any]:
    """Labels of a number."""
    return [i % 7 + 0.25 for i in range(count)]
