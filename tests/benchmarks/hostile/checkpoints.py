"""Attacks by checkpoints, tokenizers and adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from helpers.damage import ADAPTER_DAMAGE, CONFIG_DAMAGE, WEIGHT_DAMAGE, edit_json

from hostile.bench import Attack, Bench


def checkpoint_attacks() -> list[Attack]:
    """Configs, tokenizers and weights of a checkpoint that a run starts from."""

    def start(damage: Callable[[Path], None], bench: Bench) -> list[Any]:
        checkpoint = bench.copy("bert")
        damage(checkpoint)
        return bench.train(checkpoint=checkpoint)

    def loaded(damage: Callable[[Path], None], bench: Bench) -> list[Any]:
        run = bench.copy("full")
        damage(run / "model")
        edit_json(run / "result.json", artifacts=None)  # a manifest would already refuse it
        return bench.predict(run / "model")

    return [
        *(Attack(f"checkpoint, {n}: train", partial(start, d), (0, 2)) for n, d in CONFIG_DAMAGE.items()),
        *(Attack(f"checkpoint, {n}: predict", partial(loaded, d), (0, 2)) for n, d in CONFIG_DAMAGE.items()),
        *(Attack(f"weights, {n}: train", partial(start, d)) for n, d in WEIGHT_DAMAGE.items()),
        *(Attack(f"weights, {n}: predict", partial(loaded, d)) for n, d in WEIGHT_DAMAGE.items()),
        Attack("checkpoint is a file: train", lambda b: b.train(checkpoint=b.home / "bert" / "model.safetensors")),
        Attack("checkpoint is a file: predict", lambda b: b.predict(b.home / "bert" / "model.safetensors")),
        Attack("checkpoint is a file: card", lambda b: ["card", b.data]),
        Attack("checkpoint is a file: push", lambda b: ["push", b.data, "tester/model"], needs_hub=True),
    ]


def adapter_attacks() -> list[Attack]:
    """Adapters of a run that has no model/."""

    def loaded(damage: Callable[[Path], None], use: str, bench: Bench) -> list[Any]:
        run = bench.copy("prompt")
        damage(run / "adapter")
        edit_json(run / "result.json", artifacts=None)
        return bench.predict(run) if use == "predict" else bench.train("--teacher", run)

    return [
        Attack(f"adapter, {name}: {use}", partial(loaded, damage, use), (0, 2))
        for name, damage in ADAPTER_DAMAGE.items()
        for use in ("predict", "teacher")
    ]


def tokenizer_attacks() -> list[Attack]:
    """A tokenizer that panics on a row of the data, far behind those that are tried before."""

    def met(command: str, bench: Bench) -> list[Any]:
        checkpoint, run = bench.copy("bert"), bench.copy("full")
        pattern = {"type": "Split", "pattern": {"Regex": "(b+)+c"}, "behavior": "Isolated", "invert": False}
        for folder in (checkpoint, run / "model"):
            words = json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"]
            both = {"type": "Sequence", "pretokenizers": [words, pattern]}
            edit_json(folder / "tokenizer.json", pre_tokenizer=both)
        edit_json(run / "result.json", artifacts=None)
        rows = [f"some text {i},{('bad', 'good')[i % 2]}" for i in range(600)]
        rows[500] = f"{'b' * 60},bad"
        data = bench.folder / "rows.csv"
        data.write_text("\n".join(["text,label", *rows]))
        return bench.read(command, data, checkpoint, run)

    commands = ("train", "plan", "doctor", "predict", "evaluate")
    return [Attack(f"tokenizer, panics on a row: {command}", partial(met, command)) for command in commands]
