"""Processes whose changes of files are counted, logged, and cut at a chosen one; the tracer is `file_events.c`."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

# How a process is cut: before the event, after it, or after half of the bytes of a write.
How = Literal["before", "after", "torn"]
HOW: tuple[How, ...] = ("before", "after", "torn")
# Code of a forked process that is traced from here on; its first argument is a Trace as a dict.
TRACED = "import json, sys; from benchmarks import file_events; file_events.trace_here(**json.loads(sys.argv.pop(1)));"


class _Plan(ctypes.Structure):
    """`struct plan` of file_events.c."""

    _fields_ = [
        *((name, ctypes.c_char_p) for name in ("roots", "log", "copies", "other")),
        ("kill_at", ctypes.c_long),
        ("how", ctypes.c_int),
        ("kills_itself", ctypes.c_int),
    ]


@dataclass(frozen=True)
class Trace:
    """What is traced of a process, and where it is cut."""

    library: str
    """Of `compile_tracer`."""
    root: str
    """Folder whose events are counted."""
    log: str
    """File of events."""
    copies: str = ""
    """Folder for what each changed file holds after the event; empty: none."""
    kill_at: int = 0
    """Number of the event at which the process is killed; 0: it ends by itself."""
    how: How = "before"
    other: str = ""
    """Log of another traced process that is killed, too; empty: none."""
    kills_itself: bool = True
    """Whether this process is killed."""

    def to_dict(self) -> dict[str, Any]:
        """Keyword arguments of `trace_here`."""
        return asdict(self)


@dataclass(frozen=True)
class Event:
    """A change of a file or folder."""

    number: int
    kind: str
    result: int | None
    """What the system call returned; None: it was not made."""
    path: str
    second: str
    """The new path of a rename or link."""


def compile_tracer(folder: Path) -> str:
    """Compile file_events.c; the path of the library.

    Raises:
        SystemExit: no C compiler, or another system than Linux on x86-64.
    """
    compiler, machine = shutil.which("cc"), os.uname()
    if compiler is None or (machine.sysname, machine.machine) != ("Linux", "x86_64"):
        raise SystemExit("needs a C compiler (cc), and Linux on x86-64")
    library, source = folder / "file_events.so", Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def trace_here(library: str, how: How, **fields: Any) -> None:
    """Have the rest of this process traced, by a parent that ends as it ends."""
    tracer = ctypes.CDLL(library)
    texts = {name: fields[name].encode() for name in ("log", "copies", "other")}
    numbers = {"kill_at": fields["kill_at"], "how": HOW.index(how), "kills_itself": fields["kills_itself"]}
    plan = _Plan(roots=os.path.realpath(fields["root"]).encode(), **texts, **numbers)
    ready, go = os.pipe()
    child = os.fork()
    if child:
        os.close(ready)
        tracer.trace(child, go, ctypes.byref(plan))
    os.close(go)
    os.setsid()
    if error := tracer.watch(ready):
        raise OSError(error, os.strerror(error))


def read_log(log: Path) -> list[Event]:
    """The events that a traced process has logged, in their order."""
    events = []
    for line in log.read_text(errors="surrogateescape").splitlines()[1:]:
        number, kind, result, path, second = line.split("\t")
        events.append(Event(int(number), kind, None if result == "-" else int(result), path, second))
    return events


def points(events: Sequence[Event]) -> list[tuple[int, How]]:
    """Every way to cut a process with these events: before each, in the middle of each write, and after the last.

    After an event the disk is as before the next one.
    """
    cuts: list[tuple[int, How]] = []
    for event in events:
        cuts.append((event.number, "before"))
        if event.kind == "write" and (event.result or 0) > 1:
            cuts.append((event.number, "torn"))
    return [*cuts, (events[-1].number, "after")]
