"""Attacks by label columns of tags and of numbers, and by runs that predict them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from helpers.damage import DOCUMENTS, config, edit_json, tensors

from hostile.bench import Attack, Bench, jsonl, numbered, tagged

# Cells of a label column, by what they are; the other cells are of the kind that is expected.
TAG_CELLS: dict[str, Any] = {
    "a million tags": [f"t{i}" for i in range(1_000_000)],
    "a tag a million times": ["t1"] * 1_000_000,
    "a tag of 10 MB": ["t" * 10_000_000],
    "a tag of 10 MB as text": "t" * 10_000_000,
    "lists of lists": [["t1"], ["t2"]],
    "lists nested 500 deep": json.loads("[" * 500 + "]" * 500),
    "text of lists nested 900 deep": "[" * 450 + "]" * 450,
    "an object": {"t1": 1},
    "a list of objects": [{"t1": 1}],
    "a number": 3,
    "a number beyond all": [10**400],
    "text of a number beyond all": "[1e400]",
    "a truth value": True,
    "an empty tag": ["", "t1"],
    "a tag of blanks": ["   "],
    "null in a list": [None],
    "NaN in a list": [float("nan")],
    "infinity in a list": [float("inf")],
    "half a surrogate pair": ["\ud800"],
    "a NUL": ["t\0"],
    "a line break": ["t\nu"],
    "a call": "[__import__('os').getpid()]",
    "an escape that is none": "['\\\\d']",
    "a power": "[9**9**9]",
    "quotes that never end": '"t1, t2',
    "900 separators": "," * 900,
}
NUMBER_CELLS: dict[str, Any] = {
    "a number of 400 digits": 10**400,
    "a text of 900 digits": "9" * 900,
    "a text of a million digits": "9" * 1_000_000,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "text of infinity": "-inf",
    "1e308": 1e308,
    "1e39": 1e39,
    "1e30": 1e30,
    "5e-324": 5e-324,
    "a list": [1.5],
    "an object": {"a": 1},
    "a truth value": True,
    "a text": "many",
    "a price": "$5.00",
    "a decimal comma": "1,5",
    "a hexadecimal number": "0x10",
    "digits of another script": "١٢٣",
    "a number with underscores": "1_000",
}


def _rows(labels: Sequence[Any], folder: Path) -> Path:
    return jsonl(folder / "rows.jsonl", labels)


def _parquet(column: Callable[[int], pa.Array], rows: int, folder: Path) -> Path:
    path = folder / "rows.parquet"
    pq.write_table(pa.table({"text": [f"some text {i}" for i in range(rows)], "label": column(rows)}), path)
    return path


def _many_tags(rows: int, tags: int, folder: Path) -> Path:
    return _parquet(
        lambda n: pa.array([[f"t{(i * 7 + j * 13) % tags}" for j in range(3)] for i in range(n)]), rows, folder
    )


def _met(task: str, command: str, write: Callable[[Path], Path], bench: Bench) -> list[Any]:
    run = bench.home / {"multi-label": "tags", "regression": "numbers"}[task]
    named = [] if command in ("predict", "evaluate") else ["--task", task]
    return [*bench.read(command, write(bench.folder), bench.home / "bert", run), *named]


def target_attacks() -> list[Attack]:
    """Label columns whose cells are no tags and no numbers, far too many, or far too large."""
    kinds = {"multi-label": (TAG_CELLS, tagged), "regression": (NUMBER_CELLS, numbered)}
    cells = [
        Attack(
            f"targets, {task} {name}: {command}", partial(_met, task, command, partial(_rows, [cell, *good()])), (0, 2)
        )
        for task, (bad, good) in kinds.items()
        for name, cell in bad.items()
        for command in ("train", "evaluate")
    ]
    columns: dict[str, tuple[str, Callable[[Path], Path]]] = {
        "20000 rows of 2000 tags": ("multi-label", partial(_many_tags, 20_000, 2_000)),
        "100000 rows of 10000 tags": ("multi-label", partial(_many_tags, 100_000, 10_000)),
        "no tag at all": ("multi-label", partial(_rows, [[]] * 60)),
        "one tag everywhere": ("multi-label", partial(_rows, [["t1"]] * 60)),
        "one number everywhere": ("regression", partial(_rows, [1.5] * 60)),
        "one number but for one row": ("regression", partial(_rows, [1.5] * 59 + [2.5])),
        "numbers up to 1e308 of both signs": ("regression", partial(_rows, [1e308, -1e308] * 30)),
        "decimals": ("regression", partial(_parquet, lambda n: pa.array(range(n)).cast(pa.decimal128(38, 2)), 60)),
        "dates": ("regression", partial(_parquet, lambda n: pa.array(range(n)).cast(pa.timestamp("s")), 60)),
        "floats of 16 bits": ("regression", partial(_parquet, lambda n: pa.array(numbered(n)).cast(pa.float16()), 60)),
        "a dictionary": ("regression", partial(_parquet, lambda n: pa.array(numbered(n)).dictionary_encode(), 60)),
        "lists of a fixed size": (
            "multi-label",
            partial(_parquet, lambda n: pa.array([["a", "bc"[i % 2]] for i in range(n)], pa.list_(pa.string(), 2)), 60),
        ),
        "maps": (
            "multi-label",
            partial(_parquet, lambda n: pa.array([[("a", i)] for i in range(n)], pa.map_(pa.string(), pa.int64())), 60),
        ),
        "binary tags": ("multi-label", partial(_parquet, lambda n: pa.array([[b"\xff", b"a"]] * n), 60)),
    }
    return cells + [
        Attack(f"targets, {name}: {command}", partial(_met, task, command, write), (0, 2))
        for name, (task, write) in columns.items()
        for command in (("train", "plan", "evaluate") if "rows of" not in name else ("plan", "train"))
    ]


def separator_attacks() -> list[Attack]:
    """Separators that are none."""

    def met(separator: str, bench: Bench) -> list[Any]:
        data = _rows([f"a{separator}b", "a", "b"] * 20, bench.folder)
        named = ["--task", "multi-label", f"--label-separator={separator}"]
        return [*bench.read("train", data, bench.home / "bert", bench.home), *named]

    separators = {"none": "", "two letters": "ab", "a line break": "\n", "a quote": '"', "a blank": " ", "a letter": "a",
                  "a carriage return": "\r", "a tab": "\t", "two characters of one sign": "🏳️", "a backslash": "\\", "a dot": "."}  # fmt: skip
    return [Attack(f"separator, {name}", partial(met, text), (0, 2)) for name, text in separators.items()]


def model_attacks() -> list[Attack]:
    """config.json of models of tags and of numbers, where no manifest refuses it, and where one does."""
    fields: dict[str, tuple[Any, ...]] = {
        "thresholds": ({}, [], 3, "x", {"t0": 0.5}, {"t0": "x", "t1": 0.5, "t2": 0.5}, {"t0": 2, "t1": 0.5, "t2": 0.5},
                       {"t0": float("nan"), "t1": 0.5, "t2": 0.5}, {"t0": -1, "t1": 0.5, "t2": 0.5},
                       {"t0": True, "t1": False, "t2": None}, {"t0": 10**400, "t1": 0.5, "t2": 0.5}),
        "problem_type": ("regression", "single_label_classification", "multi_label_classification", "x", 3, ["x"], {}, None),
        "label_separator": (3, "", "ab", "\n", [","], '"', "x" * 1000),
        "id2label": ({"0": "a"}, {"0": "a", "1": "a", "2": "a"}, {"0": "a", "1": "b", "2": "c", "3": "d"}),
        "label_values": ({"0": "a"}, [3], 3),
    }  # fmt: skip

    def met(name: str, damage: Callable[[Path], None], command: str, bench: Bench) -> list[Any]:
        run = bench.copy(name)
        damage(run / "model")
        if command == "start":
            return [*bench.train(checkpoint=run), "--task", {"tags": "multi-label", "numbers": "regression"}[name]]
        if command != "with its manifest":
            edit_json(run / "result.json", artifacts=None)
        data = _rows(tagged() if name == "tags" else numbered(), bench.folder)
        return ["evaluate", run, data] if command == "evaluate" else bench.predict(run)

    damages = {
        f"{field} {json.dumps(value)[:50]}": partial(config, **{field: value})
        for field, values in fields.items()
        for value in values
    }
    damages |= {
        "weights that are infinite": lambda folder: tensors(
            folder, lambda t: {n: w + float("inf") for n, w in t.items()}
        ),
        "a head 10^30 times as large": lambda folder: tensors(
            folder, lambda t: {n: w * 1e30 if n.startswith("classifier") else w for n, w in t.items()}
        ),
    }
    refused = ("with its manifest", "start")
    return [
        Attack(
            f"{name}, {what}: {command}",
            partial(met, name, damage, command),
            (4,) if command in refused else (0, 2),
        )
        for name in ("tags", "numbers")
        for number, (what, damage) in enumerate(damages.items())
        # The hash of one changed file is as good as that of another.
        for command in ("predict", "evaluate", *(refused if number % 10 == 0 else ()))
    ]


def record_attacks() -> list[Attack]:
    """Documents of runs of tags and of numbers."""

    def met(name: str, damage: Callable[[Path], None], command: str, bench: Bench) -> list[Any]:
        run = bench.copy(name)
        damage(run)
        return {"card": ["card", run], "predict": bench.predict(run), "verify": ["verify", run]}[command]

    entries: dict[str, Any] = {
        "problem_type": "single_label_classification",
        "labels": [],
        "metrics": {"validation": {}},
        "per_class": [],
        "baselines": {"linear": {}},
        "task": "image-classification",
    }
    damages: dict[str, Callable[[Path], None]] = {
        f"{key} of result.json is another": lambda run, key=key, value=value: edit_json(
            run / "result.json", **{key: value}
        )
        for key, value in entries.items()
    }
    damages |= {
        f"recipe.json is {what}": lambda run, content=content: (run / "recipe.json").write_bytes(content)
        for what, content in list(DOCUMENTS.items())[:5]
    }
    return [
        Attack(f"{name}, {what}: {command}", partial(met, name, damage, command), (0, 2, 4))
        for name in ("tags", "numbers")
        for what, damage in damages.items()
        for command in ("card", "predict", "verify")
    ]
