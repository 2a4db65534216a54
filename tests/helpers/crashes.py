"""Runs that die at a change on the disk, forked from a process that has finished such a run before, and are resumed.

The changes are those that Python makes or announces: files opened for writing, renames, new folders, removals. What
safetensors and torch write in between is there, as a whole, at the next one.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from helpers.small_runs import small_recipe

from hf_finetune import Averaging, InputError, Launch, Lora, MaskedLanguage, Pretrain, Recipe, Train
from hf_finetune.pipeline import run as pipeline
from hf_finetune.training.trainer import ClassifierTrainer
from hf_finetune.utils import hashing

# Audit events that announce a change, with the number of paths that begin their arguments.
CHANGES = {"os.mkdir": 1, "os.rename": 2, "os.link": 2, "os.remove": 1, "os.rmdir": 1}
# Parts of names that differ from run to run.
RANDOM = re.compile(r"[0-9a-f]{8,}|(?<=\.)[a-z0-9_]{8}(?=\.partial)")
# What every run commits.
COMMON = re.compile(r"cache/.*|run/(recipe|result|trained_on|predictions|README)\..*|run/checkpoints(/checkpoint-\d+)?")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Files with seconds in them.
TIMED = ("result.json", "recipe.json", "README.md", "log.jsonl", "pretraining.json", "manifest.json")


def recipes(folder: Path) -> dict[str, Recipe]:
    """Runs of a few steps on a tiny BERT that write every kind of file: a checkpoint after each step, the last one with
    the best weights; model/, encoder/ and head.safetensors, or adapter/."""
    plain = small_recipe(folder)
    plain = dataclasses.replace(
        plain, train=Train(num_train_epochs=1.0, per_device_train_batch_size=20, learning_rate=1e-3, save_steps=1)
    )
    once = dataclasses.replace(plain.train, per_device_train_batch_size=60, save_steps=None)
    return {
        "plain": plain,
        "pretrained": dataclasses.replace(
            plain,
            train=once,
            model=dataclasses.replace(plain.model, pooling="mean", head="mlp"),
            pretrain=Pretrain(objective=MaskedLanguage(), num_train_epochs=1.0),
        ),
        "adapter": dataclasses.replace(
            plain, train=once, method="lora", lora=Lora(variant="pissa", r=2), averaging=Averaging(soup=True)
        ),
    }


@dataclass(frozen=True)
class Event:
    """A change on the disk, or the wait until one has reached it."""

    kind: str
    """open, sync, mkdir, rename, link, remove or rmdir."""
    paths: tuple[str, ...]
    """Below the watched folder."""
    changed: tuple[str, ...] = ()
    """Files of the run that are others after it, were not there before, or are gone. The lock, the log, and what has a
    temporary name or lies in a folder that has one do not count."""

    @property
    def name(self) -> str:
        """The event without random names."""
        return " ".join((self.kind, *(RANDOM.sub("*", path) for path in self.paths)))

    @property
    def commits(self) -> str | None:
        """The file or folder that gets its name, or loses it, by this event."""
        named = [path for path in self.paths if "/." not in path]
        return named[-1] if self.kind == "rename" and named else None


class Watch:
    """Lists the changes below `folder` from now to the end of this process, and dies before one of them.

    Args:
        die_before: the number of the event and its name; None: before none of them.
    """

    def __init__(self, folder: Path, die_before: tuple[int, str] | None = None) -> None:
        self.folder, self.die_before = folder, die_before
        self.events: list[Event] = []
        self._visible: list[dict[str, tuple[int, ...]]] = []
        self._is_looking = False
        sys.addaudithook(self._hear)
        sync = os.fsync

        def synced(handle: int) -> None:
            self._note("sync", os.readlink(f"/proc/self/fd/{handle}"))
            sync(handle)

        os.fsync = synced

    def finished(self) -> list[Event]:
        """The events so far, with what each has changed."""
        states = [*self._visible, self._state()]
        return [
            dataclasses.replace(
                event,
                changed=tuple(sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))),
            )
            for event, (before, after) in zip(self.events, itertools.pairwise(states), strict=True)
        ]

    def _hear(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self._is_looking:
            return
        if name == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes, os.PathLike)) and flags & WRITING:
                self._note("open", os.fsdecode(path))
        elif name in CHANGES:
            paths, others = arguments[: CHANGES[name]], arguments[CHANGES[name] :]
            # mkdir has its mode before the folder that the path starts from.
            starts = others[-len(paths) :]
            full = (
                os.fsdecode(path) if start < 0 else f"{os.readlink(f'/proc/self/fd/{start}')}/{os.fsdecode(path)}"
                for path, start in zip(paths, starts, strict=True)
            )
            self._note(name.removeprefix("os."), *full)

    def _note(self, kind: str, *paths: str) -> None:
        if not all(Path(path).is_relative_to(self.folder) for path in paths):
            return
        event = Event(kind, tuple(str(Path(path).relative_to(self.folder)) for path in paths))
        if self.die_before is not None:
            if len(self.events) == self.die_before[0]:
                assert event.name == self.die_before[1], f"{event.name} in place of {self.die_before[1]}"
                os.kill(os.getpid(), signal.SIGKILL)
        else:
            self._is_looking = True
            self._visible.append(self._state())
            self._is_looking = False
        self.events.append(event)

    def _state(self) -> dict[str, tuple[int, ...]]:
        states = {}
        for place, folders, files in os.walk(self.folder / "run"):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                if not name.startswith(".") and name != "log.jsonl":
                    path = Path(place) / name
                    about = path.stat()
                    states[str(path.relative_to(self.folder))] = about.st_ino, about.st_size, about.st_mtime_ns
        return states


def forked(task: Callable[[], Any]) -> Any:
    """What `task` returns in a process of its own, as JSON passes it on; None: it was killed."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        status = 1
        try:
            os.close(reading)
            content = json.dumps(task())
            with open(writing, "w") as answer:
                answer.write(content)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading) as answer:
        content = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == -signal.SIGKILL:
        return None
    if status:
        raise RuntimeError("the forked process failed, see its stderr")
    return json.loads(content)


def outcome(run: Path) -> dict[str, Any]:
    """What must not depend on where a run was killed."""
    result = json.loads((run / "result.json").read_text())
    lines = [json.loads(line) for path in sorted(run.rglob("log.jsonl")) for line in path.read_text().splitlines()]
    return {
        "files": {
            str(path.relative_to(run)): None if path.name in TIMED else hashing.of_files(path)
            for path in sorted(run.rglob("*"))
            if not path.is_dir()
        },
        "folders": sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_dir()),
        **{name: result[name] for name in ("metrics", "best", "steps", "artifacts")},
        "losses": [(line["step"], line["loss"]) for line in lines if "loss" in line],
    }


def crash(folder: Path, name: str, choose: Callable[[Sequence[Event]], Sequence[int]]) -> dict[str, Any]:
    """A run of `recipes` to its end, and one for each event of it that is chosen, killed before it and resumed.

    Returns:
        events: of the first run; whole: its outcome; resumed: the outcome of each other one by the killing event.
    """
    recipe = recipes(folder)[name]
    # Seconds that have nothing to do with files.
    pipeline.verify = lambda *_: {}
    ClassifierTrainer._measure_utilization = lambda _: None
    pipeline.run(recipe, Launch(str(folder / "before")))
    # What is there now is not collected again by each process.
    gc.collect()
    gc.freeze()

    def attempt(home: Path, die_before: tuple[int, str] | None = None, *, resume: bool = False) -> Any:
        os.environ["HF_FINETUNE_CACHE"] = str(home / "cache")
        watch = None if resume else Watch(home, die_before)
        try:
            pipeline.run(recipe, Launch(str(home / "run"), resume=resume))
        except InputError as error:
            if not (resume and str(error).endswith("the run in it is finished, there is nothing to resume")):
                raise
        # `outcome` opens files, too.
        events = [] if watch is None else [dataclasses.asdict(event) for event in watch.finished()]
        return events, outcome(home / "run")

    events, whole = forked(partial(attempt, folder / "whole"))
    listed = [Event(**{**event, "paths": tuple(event["paths"])}) for event in events]
    resumed = {}
    for number in choose(listed):
        home = folder / str(number)
        killed = forked(partial(attempt, home, (number, listed[number].name)))
        assert killed is None, f"{listed[number].name} did not come"
        resumed[f"{number} {listed[number].name}"] = forked(partial(attempt, home, resume=True))[1]
    return {"events": events, "whole": whole, "resumed": resumed}


def kill_points(name: str, which: str) -> Callable[[Sequence[Event]], list[int]]:
    """What chooses the events before which a run of `recipes` is killed.

    Args:
        which: commits: the plain run at each of its commits, within a checkpoint, within removals and at its end; the
            others at the commits that the plain one does not have. all: at every event.
    """

    def choose(events: Sequence[Event]) -> list[int]:
        if which == "all":
            return [number for number, event in enumerate(events) if event.kind != "sync"]
        commits = [number for number, event in enumerate(events) if event.commits is not None]
        if name != "plain":
            return [number for number in commits if not COMMON.fullmatch(str(events[number].commits))]
        staged = [n for n, event in enumerate(events) if event.kind == "open" and "trainer_state" in event.paths[0]]
        removals = [n for n, event in enumerate(events) if event.kind == "remove" and "checkpoint-" in event.paths[0]]
        unlocked = [n for n, event in enumerate(events) if event.kind == "remove" and event.paths == ("run/.lock",)]
        return sorted({*commits, staged[1], removals[3], removals[len(removals) // 2], removals[-1], *unlocked})

    return choose
