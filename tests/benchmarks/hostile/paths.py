"""Attacks by paths in data, by folders where a run is to be, and by what is left of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from helpers.damage import edit_json

from hostile.bench import Attack, Bench

PATHS = {
    "a file of the machine": "/etc/hostname",
    "a file above": "../rows.csv",
    "a file above behind a folder": "a/../../rows.csv",
    "a home": "~/.netrc",
    "an address": "http://127.0.0.1:9/x.png",
    "a file by its address": "file:///etc/hostname",
    "a file of a Hub": "hf://datasets/a/b/x.png",
    "a file of a bucket": "s3://a/x.png",
    "a member of an archive": "zip://x.png::a.zip",
    "data in the path": "data:image/png;base64,iVBORw0KGgo=",
    "a path of Windows": "C:\\x.png",
    "a share": "\\\\host\\x.png",
    "a NUL": "x\0.png",
    "a path of a million letters": "x" * 1_000_000 + ".png",
    "a folder": ".",
    "standard input": "/dev/stdin",
    "the environment": "/proc/self/environ",
    "zeros without end": "/dev/zero",
}


def path_attacks() -> list[Attack]:
    """Tables that name something else as their images."""

    def met(path: str, command: str, bench: Bench) -> list[Any]:
        data = bench.folder / "rows.jsonl"
        rows = [{"image": path, "label": "ab"[i % 2]} for i in range(6)]
        data.write_text("\n".join(map(json.dumps, rows)))
        if command == "train":
            return ["train", data, "--model", bench.home / "vit", "--image", "image", "--output", bench.folder / "out"]
        return bench.read(command, data, bench.home / "vit", bench.home / "images")

    def linked(kind: str, bench: Bench) -> list[Any]:
        for name in "ab":
            folder = bench.folder / "data" / name
            folder.mkdir(parents=True)
            for i in range(3):
                (folder / f"{i}.png").write_bytes((bench.home / "image_rows" / "images" / "a" / "0.png").read_bytes())
        bad = bench.folder / "data" / "a" / "bad.png"
        match kind:
            case "a pipe":
                os.mkfifo(bad)
            case "a link to itself":
                bad.symlink_to(bad)
            case "a link to the folder":
                (bench.folder / "data" / "a" / "loop").symlink_to(bench.folder / "data", target_is_directory=True)
            case "a link to zeros":
                bad.symlink_to("/dev/zero")
        return ["train", bench.folder / "data", "--model", bench.home / "vit", "--output", bench.folder / "out"]

    kinds = ("a pipe", "a link to itself", "a link to the folder", "a link to zeros")
    return [
        *(
            Attack(f"paths, {name}: {command}", partial(met, path, command))
            for name, path in PATHS.items()
            for command in ("train", "predict")
        ),
        *(Attack(f"paths, {kind} among images", partial(linked, kind), (0, 2)) for kind in kinds),
    ]


def output_attacks() -> list[Attack]:
    """Outputs that are no folder for a run, and locks that are none."""

    def met(make: Callable[[Path, Bench], Any], bench: Bench) -> list[Any]:
        make(bench.folder / "out", bench)
        return bench.train()

    def lock(make: Callable[[Path], Any], out: Path, bench: Bench) -> None:
        out.mkdir()
        make(out / ".lock")

    outputs: dict[str, Callable[[Path, Bench], Any]] = {
        "a file": lambda out, bench: out.write_text("x"),
        "a link to nothing": lambda out, bench: out.symlink_to(bench.folder / "nothing"),
        "a link to itself": lambda out, bench: out.symlink_to(out),
        "a link to a finished run": lambda out, bench: out.symlink_to(bench.copy("full")),
        "a folder of other files": lambda out, bench: (out.mkdir(), (out / "mine.txt").write_text("x")),
        "below a file": lambda out, bench: (out.mkdir(), (out / "recipe.json").mkdir()),
        "a lock that is a folder": partial(lock, lambda path: path.mkdir()),
        "a lock that is a pipe": partial(lock, os.mkfifo),
        "a lock that leads out": partial(lock, lambda path: path.symlink_to("/etc/hostname")),
        "a lock that is a link to itself": partial(lock, lambda path: path.symlink_to(path)),
        "a lock of other content": partial(lock, lambda path: path.write_bytes(b"\xff\0[")),
        "a lock of 300 MB": partial(
            lock, lambda path: os.truncate(path, 300_000_000) if path.touch() is None else None
        ),
    }
    return [Attack(f"output, {name}", partial(met, make), (0, 2)) for name, make in outputs.items()]


def leftover_attacks() -> list[Attack]:
    """What a kill or a power loss may leave of a run, and what somebody changed in it, met by `--resume`."""

    def met(damage: Callable[[Path], Any], bench: Bench) -> list[Any]:
        run = bench.copy("full")
        (run / "result.json").unlink()
        damage(run)
        checkpoint = bench.home / "bert"
        return [*bench.train("--train.keep-checkpoints", checkpoint=checkpoint), "--output", run, "--resume"]

    def each(change: Callable[[Path], Any], pattern: str, run: Path) -> None:
        for path in (run / "checkpoints").rglob(pattern):
            if path.is_file():
                change(path)

    def zero(path: Path) -> None:
        path.write_bytes(bytes(path.stat().st_size))

    damages: dict[str, Callable[[Path], Any]] = {
        "nothing": lambda run: None,
        "result.json is empty": lambda run: (run / "result.json").write_text(""),
        "result.json is of zeros": lambda run: (run / "result.json").write_bytes(bytes(4096)),
        "recipe.json is empty": lambda run: (run / "recipe.json").write_text(""),
        "recipe.json is of zeros": lambda run: (run / "recipe.json").write_bytes(bytes(4096)),
        "recipe.json is gone": lambda run: (run / "recipe.json").unlink(),
        "log.jsonl ends in a line": lambda run: (run / "log.jsonl").write_bytes((run / "log.jsonl").read_bytes()[:-9]),
        "log.jsonl is of zeros": lambda run: zero(run / "log.jsonl"),
        "log.jsonl is a folder": lambda run: ((run / "log.jsonl").unlink(), (run / "log.jsonl").mkdir()),
        "states are empty": partial(each, lambda path: path.write_bytes(b""), "trainer_state.json"),
        "states are lists": partial(each, lambda path: path.write_text("[]"), "*.json"),
        "weights are of zeros": partial(each, zero, "*.safetensors"),
        "optimizers are of zeros": partial(each, zero, "optimizer*"),
        "everything is of zeros": partial(each, zero, "*"),
        "everything is gone": partial(each, Path.unlink, "*"),
        "another recipe": lambda run: edit_json(run / "recipe.json", recipe={}),
    }
    return [Attack(f"leftovers, {name}", partial(met, damage), (0, 2)) for name, damage in damages.items()]
