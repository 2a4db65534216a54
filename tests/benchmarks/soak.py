"""Many short runs on a small disk, with kills, full disks and damaged caches at random moments.

    python tests/benchmarks/soak.py [--runs 200] [--seed 0] [--disk DIR]

Runs are full, LoRA, top layers on cached activations, and distilled; in one process, in two, and in two that
`--num-processes 2` launches. Each is disturbed up to three times, at a random moment: SIGKILL, SIGTERM or SIGHUP to one of
its processes or to its launcher, or a disk that is full but for a random rest. All runs share one cache, in whose files,
between the runs' attempts, bytes are flipped, ends cut off, and files deleted. Each attempt is `--resume`. The last one is
left alone; then model, predictions and metrics must have the bits of the undisturbed run, `verify` must pass and `predict`
must print the same.

Mounts a tmpfs of its own, which needs root; otherwise name a folder on a small disk by `--disk`. It has 100 MB more than the
gigabyte that the cache leaves to others. Prints tables, also when it is stopped by Ctrl-C or SIGTERM, and leaves with status 1
if anything was lost or wrong."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks import short_runs
from benchmarks.short_runs import Command, Ended, LaunchedCommand, difference, disagreement, outcome, training

from hf_finetune.utils.disk_cache import SPARE_BYTES

DISK_BYTES = SPARE_BYTES + 100_000_000
Start = Literal["one process", "two processes", "launched"]
# How often of a hundred: what is trained, and how it is started. A launched run takes half a minute for each attempt.
SHARES: dict[tuple[str, Start], int] = {
    ("full", "one process"): 24,
    ("lora", "one process"): 24,
    ("top", "one process"): 22,
    ("distill", "one process"): 20,
    ("full", "two processes"): 5,
    ("distill", "two processes"): 3,
    ("lora", "launched"): 2,
}
FAULTS = ("SIGKILL", "SIGTERM", "SIGHUP", "disk full", "damaged cache")
SEEDS, MOST_FAULTS = 3, 3
# Bytes left on a full disk.
MOST_LEFT = 400_000


@dataclass
class Tables:
    """What was survived."""

    runs: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    same: Counter[str] = field(default_factory=Counter)
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        lines = [
            "| run | runs | attempts | same bits, verified, same predictions | LOST OR WRONG |",
            "|---|---|---|---|---|",
        ]
        for name in (*sorted(self.runs), "all"):
            runs, attempts, same = (
                c.total() if name == "all" else c[name] for c in (self.runs, self.attempts, self.same)
            )
            lines.append(f"| {name} | {runs} | {attempts} | {same} | {runs - same} |")
        ends = sorted({end for _, end in self.faults})
        lines += ["", f"| disturbed by | {' | '.join(ends)} |", f"|---|{'---|' * len(ends)}"]
        lines += [f"| {fault} | {' | '.join(str(self.faults[fault, end]) for end in ends)} |" for fault in FAULTS]
        return "\n".join(lines)


class Disk:
    """A small disk, and the file that fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._ballast = folder, folder / "ballast"

    def fill(self, left: int) -> None:
        """Leave so many bytes."""
        free = shutil.disk_usage(self.folder).free - left
        with suppress(OSError), self._ballast.open("wb") as file:  # a run may have taken the room meanwhile
            os.posix_fallocate(file.fileno(), 0, max(1, free))

    def free(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)

    def damage(self, cache: Path, chance: random.Random) -> bool:
        """Damage some files of the cache; whether there were any."""
        files = sorted(path for path in cache.rglob("*") if path.is_file())
        for path in chance.sample(files, min(len(files), chance.randint(1, 3))):
            content = bytearray(path.read_bytes())
            match chance.choice(("flip", "cut", "delete")):
                case "flip" if content:
                    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
                    path.write_bytes(content)
                case "cut":
                    path.write_bytes(content[: chance.randint(0, len(content))])
                case _:
                    path.unlink()
        return bool(files)


@dataclass(frozen=True)
class Soak:
    """A run of the soak, which is disturbed."""

    home: Path
    disk: Disk
    number: int
    kind: str
    start: Start
    seed: int
    chance: random.Random

    @property
    def folder(self) -> Path:
        """Where it is, on the small disk."""
        return self.disk.folder / f"run-{self.number}"

    @property
    def cache(self) -> Path:
        """The cache of all runs."""
        return self.disk.folder / "cache"

    @property
    def processes(self) -> int:
        """How many are started; they decide the bits of a run, too."""
        return 1 if self.start == "one process" else 2

    @property
    def twin(self) -> Path:
        """Folder of the undisturbed run."""
        return self.home / f"{self.kind}-{self.processes}-{self.seed}"

    def command(self, output: Path, folder: Path, cache: Path, start: Start) -> Command | LaunchedCommand:
        """The run with an output folder of its own."""
        arguments = [*training(self.home, self.kind, output, seed=self.seed), "--resume"]
        if start == "launched":
            return LaunchedCommand([*arguments, "--num-processes", "2"], folder, cache)
        return Command(arguments, folder, cache, [("", ())] * self.processes)

    def undisturbed(self) -> tuple[dict[str, Any], float]:
        """What the twin ended with, and the seconds that it took."""
        seconds, started = self.twin.with_suffix(".seconds"), time.monotonic()
        if not seconds.exists():
            ended = self.command(self.twin, self.home, self.home / "cache", "two processes").wait()
            if ended.status:
                raise SystemExit(ended.stderr)
            seconds.write_text(str(time.monotonic() - started))
        return outcome(self.twin), float(seconds.read_text())

    def attempt(self, fault: str, seconds: float) -> tuple[Ended, bool]:
        """Run it with a fault at a random moment; how it ended, and whether the fault met it."""
        is_damaged = fault == "damaged cache" and self.disk.damage(self.cache, self.chance)
        command = self.command(self.folder / "out", self.folder, self.cache, self.start)
        if fault in ("none", "damaged cache"):
            return command.wait(), is_damaged
        until = time.monotonic() + self.chance.uniform(0, 0.8 * seconds)
        while (is_running := command.is_running) and time.monotonic() < until:
            time.sleep(0.005)
        if is_running and fault == "disk full":
            self.disk.fill(self.chance.randint(0, MOST_LEFT))
        elif is_running:
            with suppress(ProcessLookupError):  # it has ended in this moment
                os.kill(self.chance.choice(command.processes), signal.Signals[fault])
        ended = command.wait()
        self.disk.free()
        return ended, is_running

    def judge(self, ended: Ended, twin: dict[str, Any]) -> str:
        """What is wrong with it after the attempt that was left alone; empty: nothing."""
        if ended.status not in (0, 2) or (ended.status == 2 and "is finished" not in ended.stderr):
            return f"status {ended.status}: {ended.last_line}"
        out = self.folder / "out"
        return difference(out, twin) or disagreement(out, self.home, self.twin, self.folder, self.cache)


def survive(run: Soak, tables: Tables) -> str:
    """Disturb a run, let it finish and compare it; what was wrong."""
    twin, seconds = run.undisturbed()
    seconds *= 8 if run.start == "launched" else 1  # a new interpreter for each process
    run.folder.mkdir()
    name, happened = f"{run.kind}, {run.start}", []
    for fault in (*run.chance.choices(FAULTS, k=run.chance.randint(1, MOST_FAULTS)), "none"):
        ended, has_met = run.attempt(fault, seconds)
        tables.attempts[name] += 1
        happened.append(f"{fault}{'' if has_met else ' (too late)'}: {ended.status}")
        if fault != "none":
            tables.faults[fault, how_ended(ended) if has_met else "was too late"] += 1
        if ended.has_traceback:
            break
    wrong = f"traceback\n{ended.stderr}" if ended.has_traceback else run.judge(ended, twin)
    tables.runs[name] += 1  # a run that Ctrl-C stops does not count
    tables.same[name] += not wrong
    if not wrong:
        shutil.rmtree(run.folder)
        return ""
    kept = shutil.move(run.folder, run.home / f"wrong-{run.number}")
    return f"run {run.number}, {name}, seed {run.seed}, {', '.join(happened)}: {wrong} ({kept})"


def how_ended(ended: Ended) -> str:
    """The end of a disturbed attempt, for a table."""
    if ended.status == 2 and "is finished" in ended.stderr:
        return "had finished"
    known = {0: "went on to the end", 1: "failed in one line", 2: "refused in one line", 3: "saved and stopped"}
    return known.get(ended.status, "was killed")


@contextmanager
def small_disk(folder: Path | None) -> Iterator[Path]:
    """A tmpfs, which is removed again; or the folder that was named.

    Raises:
        SystemExit: it cannot be mounted.
    """
    if folder is not None:
        yield folder.resolve()
        return
    mounted = Path(tempfile.mkdtemp())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", mounted]
    if (made := subprocess.run(mount, capture_output=True, text=True)).returncode:
        raise SystemExit(f"cannot mount a tmpfs ({made.stderr.strip()}); name a folder on a small disk by --disk")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)
        mounted.rmdir()


def main() -> None:
    """Soak, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument(
        "--disk", type=Path, metavar="DIR", help="an empty folder on a small disk; default: a new tmpfs"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="an empty folder for undisturbed runs, which stays")
    options = parser.parse_args()
    # nohup ignores SIGHUP, a shell in the background SIGINT; the runs are to be ended by them.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    tables, chance, wrong = Tables(), random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as temporary, small_disk(options.disk) as folder:
        home, disk = (options.work or Path(temporary)).resolve(), Disk(folder)
        short_runs.write_inputs(home)
        with suppress(KeyboardInterrupt):
            for number in range(options.runs):
                kind, start = chance.choices([*SHARES], [*SHARES.values()])[0]
                seed = chance.randrange(SEEDS)
                run = Soak(home, disk, number, kind, start, seed, random.Random(f"{options.seed}-{number}"))
                try:
                    why = survive(run, tables)
                except TimeoutError as error:
                    why = f"run {number}: {error} did not end"
                if why:
                    print(why, flush=True)
                    wrong += 1
    print(tables)
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
