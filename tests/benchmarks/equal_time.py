"""Method auto and its rivals at equal wall-clock time, paired by seed and row.

    python tests/benchmarks/equal_time.py measure DATA_FOLDER --seconds 30 120 --seeds 0 --output equal.jsonl \
        [--rows 1500 | --per-class 8] [--sides ours default linear probe trainer setfit autogluon] \
        [--rates 1e-4 3e-4] [--test-rows 2000] [--python PYTHON_OF_AUTOGLUON]
    python tests/benchmarks/equal_time.py table FILE ...
    python tests/benchmarks/equal_time.py plot FILE ... --to docs/equal_time.svg

DATA_FOLDER holds train and test (csv or parquet) with the columns text and label. A seed draws `--rows` training rows, or
`--per-class` of each class, and is the seed of the training; the test rows are the same for all. Each side is a process
of its own, and its time is that of the process, imports included, without the test rows. Ours is `hf-finetune train
--method auto --budget Ts` with an empty cache; each rung that was its result for a time is scored, too. The rivals are
those of rivals.py; `default` is `hf-finetune train` with no flag, which has no limit of time. The Trainer trains with each
of `--rates`, and `table` takes the best one on test, which favors it. A command that is given again goes on where it
stopped; what has been measured is in tests/benchmarks/results. Leave the machine otherwise idle, and OMP_NUM_THREADS and
OMP_WAIT_POLICY unset.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from book import Book, Failed, read
from few_labels import CHECKPOINT, points
from rivals import draw, read_split

from hf_finetune.evaluation.paired import paired_difference, paired_macro_f1, paired_scores, verdict

RIVALS = Path(__file__).parent / "rivals.py"
ENOUGH_ROWS = 20
"""Training rows of a class that has to be predicted, if the linear baseline finds it."""
ROWS = "rows"
"""The line of what all sides of a seed share."""
UNLIMITED = "linear"
"""The side that ends within seconds, whatever the time: it is measured once, and stands for all times."""
MOST_S = 3600
"""Seconds after which a run without a limit of time is given up."""
Lines = dict[int, dict[str, Any]]
"""Measurements of a side by seed."""


def process(command: list[str], limit_s: float, python: str = sys.executable, **environment: str) -> tuple[str, float]:
    """Run Python; return what it printed, and the seconds of the process."""
    started, environment = time.time(), {**os.environ, **environment}
    try:
        done = subprocess.run([python, *command], capture_output=True, text=True, timeout=limit_s, env=environment)
    except subprocess.TimeoutExpired:
        raise Failed(f"did not end within {limit_s:.0f} s") from None
    if done.returncode != 0:
        raise Failed(done.stderr[-500:])
    return done.stdout, round(time.time() - started, 1)


def ours(data: Path, seed: int, seconds: float, flags: list[str]) -> dict[str, Any]:
    """Climb within the budget, then label the test rows by each rung that was the result for a time."""
    with tempfile.TemporaryDirectory() as work:
        run = Path(work) / "run"
        wall_s = train(data, seed, run, 3 * seconds + 300, ["--method", "auto", "--budget", f"{seconds:g}s", *flags])
        result = json.loads((run / "result.json").read_text())
        rungs = [rung for rung in result["rungs"] if rung["promoted"]]
        return {
            "predicted": labels_by(run, data),
            "wall_s": wall_s,
            "rungs": [
                {
                    "name": rung["name"],
                    "ended_s": rung["ended_s"],
                    "predicted": labels_by(run / "rungs" / rung["folder"], data),
                }
                for rung in rungs[:-1]
            ],
            "ended_s": rungs[-1]["ended_s"],
            "climb": {rung["name"]: rung["reason"] for rung in result["rungs"]},
            **{name: result["ladder"][name] for name in ("chosen", "verdict")},
        }


def default(data: Path, seed: int, seconds: float, flags: list[str]) -> dict[str, Any]:
    """Train as without any flag, in the time that it takes."""
    with tempfile.TemporaryDirectory() as work:
        run = Path(work) / "run"
        return {"wall_s": train(data, seed, run, MOST_S, flags), "predicted": labels_by(run, data)}


def train(data: Path, seed: int, run: Path, limit_s: float, flags: list[str]) -> float:
    """Train with an empty cache, and return the seconds of the process."""
    command = ["-m", "hf_finetune", "train", str(data / "train.csv"), "--seed", str(seed), "--output", str(run), *flags]
    return process(command, limit_s, HF_FINETUNE_CACHE=str(run.parent / "cache"))[1]


def labels_by(run: Path, data: Path) -> list[str]:
    """The label of each test row, by the model of a run."""
    from hf_finetune import Classifier

    return list(map(str, Classifier.load(run).predict(list(read_split(data, "test").text))))


def rival(
    data: Path, seed: int, seconds: float, flags: list[str], *, side: str, python: str = sys.executable
) -> dict[str, Any]:
    """Run a side of rivals.py."""
    options = ["--seconds", f"{seconds:g}", "--seed", str(seed), *flags]
    printed, _ = process([str(RIVALS), side, str(data), CHECKPOINT, *options], 3 * seconds + 300, python)
    return json.loads(printed.splitlines()[-1])


def measure(options: argparse.Namespace) -> None:
    """One line a side, time and seed."""
    sides: dict[str, Callable[..., dict[str, Any]]] = {}
    for side in options.sides:
        if side in ("ours", "default"):
            sides[side] = partial(ours if side == "ours" else default, flags=options.flags.split())
        elif side == "trainer":
            for rate in options.rates:
                sides[f"trainer {rate}"] = partial(rival, side=side, flags=["--rate", rate])
        else:
            python = options.python if side == "autogluon" else sys.executable
            sides[side] = partial(rival, side=side, flags=[], python=python)
    book = Book(options.output)
    size = "whole" if options.rows is None else f"{options.rows} rows"
    size = size if options.per_class is None else f"{options.per_class} a class"
    for seed in options.seeds:
        train, test = draw(options.folder, options.rows, options.per_class, seed, options.test_rows)
        with tempfile.TemporaryDirectory() as folder:
            train.to_csv(Path(folder) / "train.csv", index=False)
            test.to_csv(Path(folder) / "test.csv", index=False)
            key = {"data": options.folder.name, "size": size, "seed": seed}
            classes = {label: number for number, label in enumerate(sorted(set(train.label)))}
            book.measure({**key, "side": ROWS}, partial(_rows, train, test, classes))
            for seconds in options.seconds:
                for side, fit in sides.items():
                    if side == UNLIMITED and seconds != min(options.seconds):
                        continue
                    work = partial(fit, Path(folder), seed, seconds)
                    book.measure({**key, "seconds": seconds, "side": side}, partial(_numbered, work, classes))


def _rows(train: pd.DataFrame, test: pd.DataFrame, classes: dict[str, int]) -> dict[str, Any]:
    """The number of the class of each test row, and the training rows of each class."""
    train_rows = train.label.value_counts()
    return {
        "labels": [classes[label] for label in test.label],
        "train_rows": [int(train_rows[label]) for label in classes],
    }


def _numbered(work: Callable[[], dict[str, Any]], classes: dict[str, int]) -> dict[str, Any]:
    """A measurement with its predicted labels as numbers."""
    record = work()
    for labeled in (record, *record.get("rungs", ())):
        labeled["predicted"] = [classes[label] for label in labeled["predicted"]]
    return record


def correct(lines: Iterable[dict[str, Any]]) -> np.ndarray:
    """Whether each test row is right, a line for each measurement."""
    return np.array([np.equal(line["predicted"], line["labels"]) for line in lines])


def groups_of(files: Iterable[Path]) -> dict[tuple[str, str], dict[float, dict[str, Lines]]]:
    """Measurements by data and size, time, side and seed; of the Trainer those with its best rate on test."""
    groups: dict[tuple[str, str], dict[float, dict[str, Lines]]] = {}
    lines = [line for file in files for line in read(file).values() if "error" not in line]
    shared = {_drawn(line): line for line in lines if line["key"]["side"] == ROWS}
    for line in (line for line in lines if line["key"]["side"] != ROWS):
        key, rows = line["key"], shared[_drawn(line)]
        sides = groups.setdefault((key["data"], key["size"]), {}).setdefault(key["seconds"], {})
        both = {**line, **{name: rows[name] for name in ("labels", "train_rows")}}
        sides.setdefault(key["side"], {})[key["seed"]] = both
    for times in groups.values():
        always = {seed: line for sides in times.values() for seed, line in sides.pop(UNLIMITED, {}).items()}
        for seconds, sides in times.items():
            sides.update({UNLIMITED: always} if always else {})
            rates = sorted(
                (s for s in sides if s.startswith("trainer")), key=lambda s: correct(sides[s].values()).mean()
            )
            times[seconds] = {side: lines for side, lines in sides.items() if side not in rates[:-1]}
    return groups


def _drawn(line: dict[str, Any]) -> tuple[str, str, int]:
    return line["key"]["data"], line["key"]["size"], line["key"]["seed"]


def table(files: list[Path]) -> None:
    """Quality of every side and its difference to ours, over rows and seeds; then the summary of each bar."""
    print(
        "| data | rows | T, s | side | seeds | accuracy | macro F1 | wall s | ours minus this, points [95%] | macro F1 | verdict |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    groups = groups_of(files)
    for (data, size), times in groups.items():
        for seconds, sides in sorted(times.items()):
            for side, lines in sides.items():
                f1 = np.mean([_macro_f1(line) for line in lines.values()])
                wall = np.mean([line["wall_s"] for line in lines.values()])
                row = f"| {data} | {size} | {seconds:g} | {side} | {len(lines)} | {correct(lines.values()).mean():.4f} | {f1:.4f} |"
                print(row, f"{wall:.0f} |", _against(sides.get("ours", {}), lines) if side != "ours" else "| | |")
    print(
        "\n| data | rows | side | T, s | its accuracy | wall s | ours is there after s, by seed |\n|---|---|---|---|---|---|---|"
    )
    for (data, size), times in groups.items():
        for seconds, sides in sorted(times.items()):
            for side, lines in sides.items():
                if side.startswith(("trainer", "setfit")):
                    reached = [_reached(times, seed, correct([line]).mean()) for seed, line in sorted(lines.items())]
                    wall = np.mean([line["wall_s"] for line in lines.values()])
                    row = f"| {data} | {size} | {side} | {seconds:g} | {correct(lines.values()).mean():.4f} | {wall:.0f} |"
                    print(row, f"{', '.join(reached)} |")
    missed = [text for group, times in groups.items() for text in _never_predicted(group, times)]
    print(
        f"\nClasses with {ENOUGH_ROWS} training rows that linear finds and ours never predicts: {'; '.join(missed) or 'none'}"
    )


def _macro_f1(line: dict[str, Any]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(line["labels"], line["predicted"], average="macro"))


def _against(mine: Lines, other: Lines) -> str:
    seeds = sorted(mine.keys() & other.keys())
    if not seeds:
        return "| | |"
    first, second = [mine[seed] for seed in seeds], [other[seed] for seed in seeds]
    found = paired_difference(correct(first), correct(second))
    f1 = paired_macro_f1(first[0]["labels"], *([line["predicted"] for line in lines] for lines in (first, second)))
    return f"{points(found)} | {points(f1)} | {verdict(found)} |"


def _reached(times: dict[float, dict[str, Lines]], seed: int, accuracy: float) -> str:
    """The first time at which a rung of a run of ours, of any budget, had this accuracy on test."""
    runs = [sides["ours"][seed] for sides in times.values() if seed in sides.get("ours", {})]
    rungs = [{"labels": run["labels"], **rung} for run in runs for rung in (*run["rungs"], run)]
    return f"{min((r['ended_s'] for r in rungs if correct([r]).mean() >= accuracy), default=float('nan')):.0f}"


def _never_predicted(group: tuple[str, str], times: dict[float, dict[str, Lines]]) -> Iterable[str]:
    for seconds, sides in times.items():
        for seed in sides.get("ours", {}).keys() & sides.get("linear", {}).keys():
            mine, linear = sides["ours"][seed], sides["linear"][seed]
            found = set(np.array(linear["labels"])[correct([linear])[0]])
            for label in sorted(found - set(mine["predicted"])):
                if mine["train_rows"][label] >= ENOUGH_ROWS:
                    yield f"{' '.join(group)}, {seconds:g} s, seed {seed}: class {label}"


def plot(files: list[Path], to: Path) -> None:
    """Accuracy against time, with intervals over rows and seeds."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    groups = groups_of(files)
    figure, axes = pyplot.subplots(
        1, len(groups), figsize=(3.4 * len(groups), 3.2), squeeze=False, layout="constrained"
    )
    names = list(dict.fromkeys(side.split()[0] for times in groups.values() for s in times.values() for side in s))
    drawn: dict[str, Any] = {}
    for axis, ((data, size), times) in zip(axes[0], groups.items(), strict=True):
        for number, name in enumerate(names):
            found = [
                (_place(seconds, name, lines), paired_scores(ok := correct(lines.values()), np.zeros(ok.shape)))
                for seconds, sides in sorted(times.items())
                for side, lines in sides.items()
                if side.split()[0] == name
            ]
            if not found:
                continue
            # Apart from each other, so that the intervals can be told apart.
            x = [seconds * 1.03 ** (number - len(names) / 2) for seconds, _ in found]
            y = [interval.value for _, interval in found]
            error = [[i.value - i.low for _, i in found], [i.high - i.value for _, i in found]]
            style = {"label": name, "color": f"C{number}", "marker": "o", "markersize": 4, "capsize": 2}
            drawn[name] = axis.errorbar(x, y, error, zorder=2 + (name == "ours"), **style)
        axis.set(title=f"{data}, {size}", xscale="log", xlabel="wall-clock seconds")
        axis.set_xlim(min(times) / 1.3, max(times) * 1.3)
        axis.set_xticks(sorted(times), [f"{seconds:g}" for seconds in sorted(times)], minor=False)
        axis.minorticks_off()
    axes[0][0].set_ylabel("accuracy on test rows")
    figure.legend(handles=list(drawn.values()), loc="outside lower center", ncols=len(drawn), frameon=False)
    figure.savefig(to, metadata={"Date": None})


def _place(seconds: float, side: str, lines: Lines) -> float:
    """Where a side is drawn: at the time that it had; without a limit at that which it took."""
    return float(np.mean([line["wall_s"] for line in lines.values()])) if side == "default" else seconds


def main() -> None:
    """Measure, print the table, or draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("folder", type=Path)
    size = measuring.add_mutually_exclusive_group()
    size.add_argument("--rows", type=int)
    size.add_argument("--per-class", type=int)
    measuring.add_argument("--seconds", type=float, nargs="+", default=[30, 120, 300])
    measuring.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    measuring.add_argument("--sides", nargs="+", default=["ours", "linear", "probe", "trainer"])
    measuring.add_argument("--rates", nargs="+", default=["1e-4", "3e-4"])
    measuring.add_argument("--test-rows", type=int, default=2000)
    measuring.add_argument("--python", default=sys.executable, help="of AutoGluon, which needs versions of its own")
    measuring.add_argument("--flags", default="", help="of ours")
    measuring.add_argument("--output", type=Path, required=True)
    for name in ("table", "plot"):
        command = commands.add_parser(name)
        command.add_argument("files", type=Path, nargs="+")
        if name == "plot":
            command.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "measure":
        measure(options)
    elif options.command == "table":
        table(options.files)
    else:
        plot(options.files, options.to)


if __name__ == "__main__":
    main()
