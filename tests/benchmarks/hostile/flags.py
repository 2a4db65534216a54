"""Attacks by flags, and by what is around a command: encodings, paths, and numbers that no one means."""

from __future__ import annotations

from functools import partial
from typing import Any

from hostile.bench import Attack, Bench

NUMBERS = ("nan", "inf", "-1", "0", "1e308", "10000000000000000000000000", "x", "", "١", "0x10", "1_0", " 1")
FLAGS = ("--epochs", "--seed", "--max-length", "--train.learning-rate", "--batch-size", "--evaluate.resamples",
         "--max-train-rows", "--data.limits.rows", "--train.max-steps", "--train.gradient-accumulation-steps")  # fmt: skip
TEXTS = {
    "--output": ("", ".", "/dev/null", "/proc/x", "x\ny", "-", "é" * 300, "a" * 5000),
    "--label": ("", "nowhere", "text", "label\n"),
    "--text": ("", "label", "nowhere"),
    "--model": ("", ".", "/", "../..", "x y", "a/b/c", "hf://a/b", "http://127.0.0.1:9/a", "-"),
    "--validation": ("", "/dev/zero", "/dev/null", ".", "nowhere.csv"),
    "--config": ("", "/dev/zero", "/dev/null", ".", "nowhere.yaml"),
    "--teacher": ("", ".", "nowhere", "/dev/zero"),
    "--report-to": ("", "nowhere", "wandb,", "[wandb]"),
    "--save-every": ("", "0", "0m", "-1m", "1e9h", "nanm", "m", "1 m"),
    "--data.encoding": ("", "nonsense", "rot13", "zlib_codec", "idna", "unicode_escape", "utf-7", "hex", "undefined"),
    "--mixed-precision": ("", "fp64", "BF16"),
    "--num-processes": ("0", "-1", "1e9", "x"),
    "--label-names": ("", ",", "a,a", "bad", "a,b,c"),
    "--task": ("", "x", "regression", "multi-label"),
    "--data.sheet": ("x",),
    "--data.image-root": ("/", "nowhere"),
    "--train.extra": ("[]", "{}", "x", "{a: &a [*a]}", "{seed: 1}", "{output_dir: /tmp}", "null", "\0"),
    "--objective.loss": ("x", "Huber", "{type: Huber}", "[]"),
    "--adapter": ("x", "LORA", "{}", "{peft_type: LORA, r: 0}", "{peft_type: LORA, r: 1e9}"),
}


def flag_attacks() -> list[Attack]:
    """Values of flags."""

    def met(flag: str, value: str, bench: Bench) -> list[Any]:
        return [*bench.train(), f"{flag}={value}"]

    return [
        # A huge rate is one: its run fails, or ends in weights so large that they do not reproduce.
        *(
            Attack(f"flags, {flag} {value!r}", partial(met, flag, value), (0, 1, 2, 4))
            for flag in FLAGS
            for value in NUMBERS
        ),
        *(
            Attack(f"flags, {flag} {value[:40]!r}", partial(met, flag, value), (0, 2))
            for flag, values in TEXTS.items()
            for value in values
        ),
    ]


def command_attacks() -> list[Attack]:
    """Inputs and outputs of other commands."""
    commands: dict[str, Any] = {
        "predict into its input": lambda b: ["predict", b.home / "full", b.data, "--output", b.data],
        "predict into a folder": lambda b: ["predict", b.home / "full", b.data, "--output", b.folder],
        "predict into another format": lambda b: ["predict", b.home / "full", b.data, "--output", b.folder / "a.xyz"],
        "predict into /dev/full": lambda b: ["predict", b.home / "full", b.data, "--output", "/dev/full"],
        "predict with data as the model": lambda b: ["predict", b.data, b.data, "--output", b.folder / "a.csv"],
        "predict the run itself": lambda b: [
            "predict",
            b.home / "full",
            b.home / "full",
            "--output",
            b.folder / "a.csv",
        ],
        "predict images with a text model": lambda b: b.read(
            "predict", b.home / "image_rows" / "images", b.home, b.home / "full"
        ),
        "evaluate texts with an image model": lambda b: ["evaluate", b.home / "images", b.data],
        "evaluate tags with classes": lambda b: ["evaluate", b.home / "full", b.home / "tags.jsonl"],
        "evaluate numbers with tags": lambda b: ["evaluate", b.home / "tags", b.home / "numbers.jsonl"],
        "evaluate classes with numbers": lambda b: ["evaluate", b.home / "numbers", b.data],
        "a teacher of tags": lambda b: b.train("--teacher", b.home / "tags"),
        "a teacher of images": lambda b: b.train("--teacher", b.home / "images"),
        "a start of numbers": lambda b: b.train(checkpoint=b.home / "numbers" / "model"),
        "a start of images": lambda b: b.train(checkpoint=b.home / "images" / "model"),
        "doctor with a checkpoint as data": lambda b: ["doctor", b.home / "bert"],
        "doctor with a run as data": lambda b: ["doctor", b.home / "full"],
        "doctor with an empty folder": lambda b: ["doctor", b.folder],
        "verify data": lambda b: ["verify", b.data],
        "verify nothing": lambda b: ["verify", b.folder],
        "card of a checkpoint": lambda b: ["card", b.home / "bert"],
        "card of an empty folder": lambda b: ["card", b.folder],
        "plan with pipes": lambda b: ["plan", "/dev/zero", "--model", b.home / "bert"],
        "train on its own run": lambda b: b.train("--validation", b.home / "full"),
    }
    return [Attack(f"commands, {name}", make, (0, 2)) for name, make in commands.items()]
