"""Few rows: ours, the tuned stock Trainer on all rows, a probe on frozen features, and SetFit, paired by seed and row.

    python tests/benchmarks/few_labels.py measure DATA_FOLDER --rows 500 --seeds 0 1 2 --output few.jsonl \
        [--sides ours before trainer probe setfit] [--rates 1e-4 3e-4] [--flags "--method lora"]
    python tests/benchmarks/few_labels.py table few.jsonl

DATA_FOLDER holds train and test (csv or parquet) with the columns text and label. A seed draws `--rows` training rows,
or `--per-class` of each class, and is the seed of the training; the 600 test rows are the same for all. `before` is
ours with the first token, three epochs and the epoch of the best accuracy. The Trainer trains on all rows with each of
`--rates` and keeps its last weights; ours holds a tenth back. Training is on one thread, and `cpu_s` is processor time,
test rows excluded. A command that is given again goes on where it stopped. For every epoch of ours the file has
`curve`: its accuracy on validation and test rows, by which `table` compares rules that choose the epoch; not of a head on
frozen features. `--as NAME` is what ours is called in the file, for a second one with other `--flags`.
"""

import argparse
import logging
import shlex
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from book import Book, read
from rivals import SIDES, Fitted, draw, read_split, sampled_test, stock_trainer

from hf_finetune.data.labels import labels_of
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.paired import paired_difference, paired_scores, verdict
from hf_finetune.models.checkpoint import inspect_checkpoint
from hf_finetune.utils.embedded import minilm

TEST_ROWS = 600
# The other sides know no installed copies.
CHECKPOINT = str(inspect_checkpoint(minilm()).folder)
BEFORE = "--model.pooling default --epochs 3 --evaluate.metric accuracy"


def ours(data: Path, seed: int, *, flags: str) -> dict[str, Any]:
    """Train with these flags, and score the test rows after every epoch and at the end."""
    from hf_finetune import Launch
    from hf_finetune.cli.train import TrainJob, parse_train
    from hf_finetune.features.frozen_layers import CachedInputs
    from hf_finetune.pipeline import train as stage
    from hf_finetune.pipeline.evaluate import predict
    from hf_finetune.pipeline.run import trained_run
    from hf_finetune.training.trainer import ClassifierTrainer

    curve: list[dict[str, Any]] = []
    spent, plain, build = [0.0], ClassifierTrainer.evaluate, stage._build_trainer

    def correct_of(trainer: ClassifierTrainer) -> list[int]:
        started = time.process_time()
        correct = (trainer.logits(trainer.test_rows).argmax(1) == labels_of(trainer.test_rows)).astype(int).tolist()
        spent[0] += time.process_time() - started
        return correct

    def built(setup: Any, bar: Any) -> Any:
        trainer = build(setup, bar)
        # Cached activations are those of the other rows.
        is_cached = isinstance(setup.rows.inputs, CachedInputs)
        trainer.test_rows = None if is_cached else setup.run.data.inputs.encode(setup.run.data.splits.test)
        return trainer

    def evaluate(self: Any, *arguments: Any, **options: Any) -> dict[str, float]:
        metrics = plain(self, *arguments, **options)
        if self.test_rows is None:
            return metrics
        values = {name: metrics[f"eval_{name}"] for name in ("accuracy", "log_loss")}
        curve.append({"step": self.state.global_step, **values, "correct": correct_of(self)})
        return metrics

    stage._build_trainer, ClassifierTrainer.evaluate = built, evaluate
    try:
        with tempfile.TemporaryDirectory() as folder:
            output = ["--output", f"{folder}/run", "--evaluate.no-baselines", "--seed", str(seed)]
            job = parse_train(TrainJob, [str(data), *output, *shlex.split(flags)], "hf-finetune train")
            started = time.process_time()
            with trained_run(job.recipe, Launch(f"{folder}/run")) as trained:
                seconds = time.process_time() - started - spent[0]
                trainer, best = trained.trainer, trained.trainer.selection.best
                chosen = trainer.state.best_global_step if best is None else best.step
                facts = {"steps": trainer.state.global_step, "chosen": chosen, "pooling": trained.run.pooling_choice}
                test = trained.run.data.splits.test
                correct = (predict(trained.network, trained.run, test).argmax(1) == labels_of(test)).astype(int)
                return {**facts, "correct": correct.tolist(), "cpu_s": seconds, "curve": curve}
    finally:
        stage._build_trainer, ClassifierTrainer.evaluate = build, plain


def rival(data: Path, seed: int, *, fit: Callable[..., Fitted]) -> dict[str, Any]:
    """Train a side of rivals.py."""
    started = time.process_time()
    fitted = fit(read_split(data, "train"), CHECKPOINT, seed)
    seconds = time.process_time() - started
    test = read_split(data, "test")
    correct = np.asarray(fitted.predict(list(test.text))) == test.label.to_numpy()
    return {**fitted.facts, "correct": correct.astype(int).tolist(), "cpu_s": seconds}


def on_all_rows(fit: Callable[[], dict[str, Any]], is_known_n: np.ndarray) -> dict[str, Any]:
    """Measure, and count the test rows of a class without training rows as wrong: the same rows for all seeds."""
    line, correct_n = fit(), np.zeros(len(is_known_n), int)
    correct_n[is_known_n] = line["correct"]
    return {**line, "correct": correct_n.tolist()}


def measure(options: argparse.Namespace) -> None:
    """One line a side and seed."""
    logging.getLogger("hf_finetune").setLevel(logging.ERROR)
    sides: dict[str, Callable[[Path, int], dict[str, Any]]] = {}
    for side in options.sides:
        if side in ("ours", "before"):
            flags = options.flags if side == "ours" else f"{BEFORE} {options.flags}"
            sides[side] = partial(ours, flags=flags)
        elif side == "trainer":
            fits = {rate: partial(stock_trainer, rate=float(rate)) for rate in options.rates}
            sides |= {f"trainer {rate}": partial(rival, fit=fit) for rate, fit in fits.items()}
        else:
            sides[side] = partial(rival, fit=SIDES[side])
    book = Book(options.output)
    size = f"{options.rows} rows" if options.per_class is None else f"{options.per_class} a class"
    for seed in options.seeds:
        drawn = draw(options.folder, options.rows, options.per_class, seed, TEST_ROWS)
        is_known_n = sampled_test(options.folder, TEST_ROWS).index.isin(drawn[1].index)
        for side, fit in sides.items():
            named = options.named if side == "ours" and options.named else side
            key = {"data": options.folder.name, "size": size, "seed": seed, "side": named, "flags": options.flags}
            with tempfile.TemporaryDirectory() as folder:
                for name, rows in zip(("train", "test"), drawn, strict=True):
                    rows.to_csv(Path(folder) / f"{name}.csv", index=False)
                book.measure(key, partial(on_all_rows, partial(fit, Path(folder), seed), is_known_n))


def table(path: Path) -> None:
    """Accuracy of every side and its difference to `ours`, over rows and seeds; then that of rules for the epoch."""
    lines = [line for line in read(path).values() if "error" not in line]
    print("| data | rows | side | seeds | accuracy | processor time, s | ours minus this, points [95%] | verdict |")
    print("|---|---|---|---|---|---|---|---|")
    groups = dict.fromkeys((line["key"]["data"], line["key"]["size"]) for line in lines)
    for data, size in groups:
        of_group = [line for line in lines if (line["key"]["data"], line["key"]["size"]) == (data, size)]
        mine = {line["key"]["seed"]: line for line in of_group if line["key"]["side"] == "ours"}
        for side in dict.fromkeys(line["key"]["side"] for line in of_group):
            other = {line["key"]["seed"]: line for line in of_group if line["key"]["side"] == side}
            accuracy = np.mean([np.mean(line["correct"]) for line in other.values()])
            seconds = np.mean([line["cpu_s"] for line in other.values()])
            row = f"| {data} | {size} | {side} | {len(other)} | {accuracy:.4f} | {seconds:.0f} |"
            print(row, _difference(mine, other) if side != "ours" else "| |")
    curves = [line["curve"] for line in lines if len(line.get("curve", ())) > 1]
    if not curves:
        return
    print(
        "\n| rule for the epoch, all lines with a curve | accuracy | minus best accuracy, points [95%] |\n|---|---|---|"
    )
    rules: dict[str, Callable[[list[dict[str, Any]]], int]] = {
        "best accuracy": lambda curve: int(np.argmax([epoch["accuracy"] for epoch in curve])),
        "best log loss": lambda curve: int(np.argmin([epoch["log_loss"] for epoch in curve])),
        "last": lambda curve: len(curve) - 1,
    }
    chosen = {name: [curve[rule(curve)]["correct"] for curve in curves] for name, rule in rules.items()}
    # A run is one observation: its test rows are those of the other runs.
    accuracies = {name: [np.mean(one) for one in correct] for name, correct in chosen.items()}
    for name, of_runs in accuracies.items():
        gain = points(paired_scores(of_runs, accuracies["best accuracy"]))
        print(f"| {name}, {len(of_runs)} runs | {np.mean(of_runs):.4f} | {gain} |")


def _difference(mine: dict[int, dict[str, Any]], other: dict[int, dict[str, Any]]) -> str:
    seeds = sorted(mine.keys() & other.keys())
    if not seeds:
        return "| |"
    found = paired_difference([mine[s]["correct"] for s in seeds], [other[s]["correct"] for s in seeds])
    return f"{points(found)} | {verdict(found)} |"


def points(difference: Interval) -> str:
    """A difference in percentage points."""
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * x for x in (difference.value, difference.low, difference.high)))


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("folder", type=Path)
    size = measuring.add_mutually_exclusive_group(required=True)
    size.add_argument("--rows", type=int)
    size.add_argument("--per-class", type=int)
    measuring.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    measuring.add_argument("--sides", nargs="+", default=["ours", "before", "trainer", "probe"])
    measuring.add_argument("--rates", nargs="+", default=["1e-4"])
    measuring.add_argument("--flags", default="", help="of ours and before")
    measuring.add_argument("--as", dest="named")
    measuring.add_argument("--output", type=Path, required=True)
    commands.add_parser("table").add_argument("file", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "measure":
        measure(options)
    else:
        table(options.file)


if __name__ == "__main__":
    main()
