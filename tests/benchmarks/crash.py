"""What is left of a run that is killed at any change of a file, or whose machine loses power there.

    python tests/benchmarks/crash.py [--kind full|lora|top|distill] [--every N] [--first EVENT]
                                     [--num-processes 2 --killed main|other|both]
    python tests/benchmarks/crash.py --power-loss [--kind ...] [--every N]

Traces a short run once and numbers what it changes below its folder and its disk cache: files that are created, written,
cut, renamed, linked and deleted, folders made and removed, fsync. Then makes the run once for each cut: killed by SIGKILL
before an event, after half of the bytes of a write, after the last event (after any other event the disk is as before
the next one). `--resume` continues each, and the model, adapter, predictions and metrics are compared with those of the
undisturbed run. Of two processes, each event of the main one kills it, the other one, or both; the one that is left is
ended as torchrun does.

With `--power-loss` nothing is run until it is killed: for a power loss after each event the folder is written as a disk
may have it, see `power_loss.py`, and `predict` and `--resume` meet it.

Prints a line for each kind of event or loss, and leaves with status 1 if anything was lost or wrong. Needs a C compiler, and Linux
on x86-64."""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks import power_loss, short_runs
from benchmarks.file_events import TRACED, Event, How, Trace, compile_tracer, points, read_log
from benchmarks.short_runs import Command, Ended, difference, disagreement, outcome, training

from hf_finetune.training.checkpoints import newest_whole

Verdict = Literal["resumed", "anew", "finished", "refused", "WRONG"]
COLUMNS: dict[Verdict, str] = {
    "resumed": "resumed, same bits",
    "anew": "began anew, same bits",
    "finished": "had finished",
    "refused": "refused, remedy works",
    "WRONG": "LOST OR WRONG",
}
Killed = Literal["main", "other", "both"]
LOST: dict[power_loss.Loss, str] = {
    "strict": "all that was not fsynced",
    "bytes": "bytes that were not fsynced, but no names",
    "random": "any of what was not fsynced",
}
NEW_FOLDER = "anew in another"


@dataclass
class Table:
    """Verdicts by kind of event, or by what was lost."""

    of: str
    counts: dict[str, Counter[Verdict]] = field(default_factory=dict)

    def add(self, kind: str, verdict: Verdict) -> None:
        """Count a verdict."""
        self.counts.setdefault(kind, Counter())[verdict] += 1

    def __str__(self) -> str:
        total: Counter[Verdict] = sum(self.counts.values(), Counter())
        lines = [f"| {self.of} | points | {' | '.join(COLUMNS.values())} |", f"|---|{'---|' * (len(COLUMNS) + 1)}"]
        for kind, counts in (*sorted(self.counts.items()), ("all", total)):
            figures = [sum(counts.values()), *(counts[verdict] for verdict in COLUMNS)]
            lines.append(f"| {kind} | {' | '.join(map(str, figures))} |")
        return "\n".join(lines)


@dataclass(frozen=True)
class Bench:
    """A kind of run, its inputs, and its undisturbed twin."""

    home: Path
    library: str
    kind: str
    processes: int

    @property
    def twin(self) -> Path:
        """Folder of the undisturbed run."""
        return self.home / "twin" / "out"

    def command(self, point: Path, *extra: str, traces: Sequence[Trace | None] = ()) -> Command:
        """The run, in the folder of a point."""
        before = [(TRACED, [json.dumps(t.to_dict())]) if t else ("", []) for t in traces] or [("", [])] * self.processes
        return Command([*training(self.home, self.kind, point / "out"), *extra], point, point / "cache", before)

    def traces(self, point: Path, number: int = 0, how: How = "before", killed: Killed = "main") -> list[Trace]:
        """Traces of each process of the run in the folder of a point."""
        logs = [str(self.home / f"{point.name}-{rank}.log") for rank in range(self.processes)]
        main, *others = (Trace(self.library, str(point), log) for log in logs)
        other = "" if killed == "main" else logs[1]
        return [replace(main, kill_at=number, how=how, other=other, kills_itself=killed != "other"), *others]

    def judge(self, point: Path, twin: dict[str, Any]) -> tuple[Verdict, str]:
        """Resume what is left in the folder of a point, and say how that ended, and what was wrong or refused."""
        run = point / "out"
        ended = self.command(point, "--resume").wait()
        if ended.has_traceback:
            return "WRONG", f"traceback: {ended.last_line}"
        if ended.status == 0:
            anew = not run.exists() or "the run starts anew" in ended.stderr
            wrong = difference(run, twin)
            return ("WRONG", wrong) if wrong else ("anew" if anew else "resumed", "")
        if ended.status == 2 and "is finished" in ended.stderr:
            return self._judge_finished(point, twin)
        return self._judge_refused(point, twin, ended)

    def _judge_finished(self, point: Path, twin: dict[str, Any]) -> tuple[Verdict, str]:
        run = point / "out"
        wrong = difference(run, twin)
        # Killed while they were removed.
        wrong = "" if wrong.startswith("left behind") else wrong
        wrong = wrong or disagreement(run, self.home, self.twin, point, point / "cache")
        return ("WRONG", wrong) if wrong else ("finished", "")

    def _judge_refused(self, point: Path, twin: dict[str, Any], ended: Ended) -> tuple[Verdict, str]:
        if ended.status != 2 or NEW_FOLDER not in ended.stderr:
            return "WRONG", f"status {ended.status}: {ended.last_line}"
        shutil.rmtree(point / "out")
        again = self.command(point).wait()
        wrong = difference(point / "out", twin) if again.status == 0 else again.last_line
        return ("WRONG", wrong) if wrong else ("refused", ended.last_line)


def record(bench: Bench) -> tuple[list[Event], Path]:
    """Make the undisturbed run once; its events, and what changed files held after each."""
    point, copies = bench.twin.parent, bench.home / "copies"
    copies.mkdir()
    point.mkdir()
    main, *others = bench.traces(point)
    ended = bench.command(point, traces=[replace(main, copies=str(copies)), *others]).wait()
    if ended.status:
        raise SystemExit(ended.stderr)
    events = read_log(Path(main.log))
    if unseen := [event for event in events if event.kind in ("map", "unknown")]:
        raise SystemExit(f"an event that cannot be cut: {unseen[0]}")
    return events, copies


def crash(bench: Bench, cuts: Sequence[tuple[int, How]], killed: Killed) -> Iterator[tuple[str, Verdict, str]]:
    """Kill a run at each point and resume it; kind of event, verdict, and what was wrong."""
    twin = outcome(bench.twin)
    for number, how in cuts:
        point = bench.home / f"{number}-{how}"
        point.mkdir()
        traces = bench.traces(point, number, how, killed)
        ended = bench.command(point, traces=traces).wait()
        reached = [event for event in read_log(Path(traces[0].log)) if event.number == number]
        name = "never reached" if not reached else f"half of a {reached[0].kind}" if how == "torn" else reached[0].kind
        if reached and ended.has_traceback:
            yield name, "WRONG", f"{point.name}: traceback: {ended.last_line}"
            continue
        verdict, why = bench.judge(point, twin)
        yield name, verdict, f"{point.name}: {why}" if why else ""
        if verdict != "WRONG":
            shutil.rmtree(point)


def lose_power(bench: Bench, events: Sequence[Event], copies: Path, every: int) -> Iterator[tuple[str, Verdict, str]]:
    """Write what a disk may hold after each event, and continue from there.

    Once a second checkpoint is begun, a whole one is never lost; nothing is lost when the command has ended.
    """
    twin = outcome(bench.twin)
    known: dict[str, tuple[Verdict, str, bool]] = {}
    disk, begun = power_loss.Disk(bench.twin.parent, copies), set[str]()
    chosen = {*range(0, len(events), every), len(events) - 1}
    for index, event in enumerate(events):
        disk.apply(event)
        begun.update(re.findall(r"checkpoint-(\d+)", event.path))
        for loss in power_loss.LOSSES if index in chosen else ():
            point = bench.home / f"{event.number}-{loss}"
            tree = disk.after_loss(loss, point.name)
            if (key := power_loss.digest(tree)) not in known:
                power_loss.write_tree(tree, point)
                has_checkpoint = newest_whole(point / "out" / "checkpoints") is not None
                known[key] = *_judge_loss(bench, point, twin), has_checkpoint
                if known[key][0] != "WRONG":
                    shutil.rmtree(point)
            verdict, why, has_checkpoint = known[key]
            if verdict != "finished" and (index == len(events) - 1 or (len(begun) > 1 and not has_checkpoint)):
                verdict, why = "WRONG", f"lost, {verdict} {why}"
            yield LOST[loss], verdict, f"{point.name}: {why}" if why else ""


def _judge_loss(bench: Bench, point: Path, twin: dict[str, Any]) -> tuple[Verdict, str]:
    """Predict with what is left, which must refuse in one line or say what the twin says; then resume it."""
    run = point / "out"
    if (run / "result.json").exists() or (run / "model").exists():
        said = disagreement(run, bench.home, bench.twin, point, point / "cache")
        if "traceback" in said or "other predictions" in said:
            return "WRONG", said
    return bench.judge(point, twin)


def main() -> None:
    """Cut, continue, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=short_runs.KINDS, default="lora", help="what is trained")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th point")
    parser.add_argument("--first", type=int, default=0, metavar="EVENT", help="only kills from this event on")
    parser.add_argument("--num-processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--killed", choices=get_args(Killed), default="main", help="which of two processes")
    parser.add_argument("--power-loss", action="store_true", help="what a disk may hold, instead of kills")
    parser.add_argument("--work", type=Path, metavar="DIR", help="an empty folder, which stays")
    options = parser.parse_args()
    table = Table("lost" if options.power_loss else "killed at")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        home = (options.work or Path(temporary)).resolve()
        short_runs.write_inputs(home)
        bench = Bench(home, compile_tracer(home), options.kind, options.num_processes)
        events, copies = record(bench)
        print(f"{len(events)} events, {len(points(events))} points", flush=True)
        if options.power_loss:
            verdicts = lose_power(bench, events, copies, options.every)
        else:
            cuts = [cut for cut in points(events) if cut[0] >= options.first][:: options.every]
            verdicts = crash(bench, cuts, options.killed)
        for name, verdict, why in verdicts:
            table.add(name, verdict)
            if why:
                print(f"{verdict}: {name}: {why}", flush=True)
    print(table)
    raise SystemExit(any(counts["WRONG"] for counts in table.counts.values()))


if __name__ == "__main__":
    main()
