"""Attacks by the folder of a finished run: its documents, what is pushed of it, and disks that it does not fit on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from helpers.damage import DOCUMENTS, SECRETS, edit_json

from hostile.bench import Attack, Bench


def document_attacks() -> list[Attack]:
    """recipe.json, result.json and log.jsonl of a run, and the records of caches, with other contents."""

    def damage(command: str, file: str, content: bytes, bench: Bench) -> list[Any]:
        run = bench.copy("full")
        (run / file).write_bytes(content)
        match command:
            case "card":
                return ["card", run]
            case "push":
                return ["push", run, "tester/model"]
            case "predict":
                return bench.predict(run)
            case "start":
                return bench.train(checkpoint=run)
            case "resume":
                (run / "result.json").unlink()
                return bench.train("--output", run, "--resume")
        raise AssertionError(command)

    uses = {
        "recipe.json": ("card", "push", "predict", "resume", "start"),
        "result.json": ("card", "push", "predict", "start"),
    }
    return [
        Attack(
            f"{file} is {name}: {command}", partial(damage, command, file, content), (0, 2), needs_hub=command == "push"
        )
        for file, commands in uses.items()
        for command in commands
        for name, content in DOCUMENTS.items()
    ]


def push_attacks() -> list[Attack]:
    """Runs whose files are not those of their manifest, or whose documents hold a secret; and a push that is whole."""
    secrets = {"Hugging Face": "hf_" + "a" * 34, **SECRETS}

    def added(name: str, content: bytes, bench: Bench) -> list[Any]:
        run = bench.copy("full")
        (run / name).write_bytes(content)
        return ["push", run, "tester/model"]

    def changed(damage: Callable[[Path], None], bench: Bench) -> list[Any]:
        run = bench.copy("full")
        damage(run)
        return ["push", run, "tester/model"]

    def without(name: str, run: Path) -> None:
        (run / name).unlink()

    def linked(run: Path) -> None:
        (run / "model" / "vocab.txt").symlink_to("/etc/hostname")

    def note(secret: str, run: Path) -> None:
        edit_json(run / "result.json", notes=[secret])

    def listed(name: str, content: bytes, run: Path) -> None:
        """Add a file, and its hash to the manifest."""
        (run / name).parent.mkdir(exist_ok=True, parents=True)
        (run / name).write_bytes(content)
        artifacts = json.loads((run / "result.json").read_text())["artifacts"]
        edit_json(run / "result.json", artifacts=artifacts | {name: hashlib.sha256(content).hexdigest()})

    names = (
        "model/id_rsa",
        "model/x.pkl",
        "model/modeling.py",
        "model/rows.csv",
        "model/.env",
        "model/README.md",
        "id_rsa",
    )
    damages: dict[str, Callable[[Path], None]] = {
        "a weight is another": lambda run: (run / "model" / "model.safetensors").write_bytes(
            (run / "model" / "model.safetensors").read_bytes()[:-1] + b"\7"
        ),
        "a file is missing": partial(without, "model/tokenizer.json"),
        "a link leads out": linked,
        "the card is missing": partial(without, "README.md"),
        **{f"a token of {name} in result.json": partial(note, secret) for name, secret in secrets.items()},
        **{
            f"{name} added and listed": partial(listed, name, b"mine")
            for name in (*names, "model/../rows.csv", "../rows.csv", "model/a/b/c.txt")
        },
        "no parity check": lambda run: edit_json(run / "result.json", parity=None),
        "a failed parity check": lambda run: edit_json(run / "result.json", parity={"reload": {"ok": False}}),
    }
    return [
        *(Attack(f"push, {name} added", partial(added, name, b"mine"), (0, 2, 4), needs_hub=True) for name in names),
        *(
            Attack(f"push, {name}", partial(changed, damage), (2, 4), needs_hub=True)
            for name, damage in damages.items()
        ),
        Attack("push, nothing is changed", partial(changed, lambda run: None), (0,), needs_hub=True),
    ]


def disk_attacks() -> list[Attack]:
    """Writes that fail."""
    sizes = {f"files of at most {size} bytes": size for size in (1000, 3000, 5000, 20_000, 60_000, 100_000)}
    return [Attack(f"disk full, {name}", lambda b: b.train(), (1,), size) for name, size in sizes.items()]
