"""Tasks other than one class of a text: ours, its variants, the linear baseline and the tuned stock Trainer on the same
rows, compared by paired tests over rows and seeds.

    python tests/benchmarks/tasks.py rows DATA FOLDER [--task T] [--rows N] [--validation-rows N] [--test-rows N] \
        [--cuts -2 -0.7 0.7 2]
    python tests/benchmarks/tasks.py pairs DATA FOLDER --rows N --validation-rows N --test-rows N
    python tests/benchmarks/tasks.py measure FOLDER --task T --checkpoint DIR --output tasks.jsonl [--epochs 3] \
        [--seeds 3] [--variants "NAME=FLAGS" ...] [--linear] [--rates 1e-4 3e-4] [--only NAME ...]
    python tests/benchmarks/tasks.py table tasks.jsonl FOLDER --task T [--split validation]

Variants are flags of `hf-finetune train`; without any there is one, `ours`, of its defaults. The stock Trainer runs
with each learning rate on the first seed, and with the one that is best on its validation rows on the others. A run is
a process and a line of the output file, and its scores a file beside it: the same command goes on where it stopped. The
table compares each side with the first one. Of tags, the rival has the better of 0.5 and of our thresholds by tag."""

import argparse
import json
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from book import Book, Failed, read
from sklearn.feature_extraction.text import TfidfVectorizer

from hf_finetune.data.config import Source, SplitOptions
from hf_finetune.data.labels import labels_of
from hf_finetune.data.loading import load
from hf_finetune.evaluation.multi_label import average_precision_by_row, best_thresholds, micro_f1_by_row
from hf_finetune.evaluation.ordinal import kappa_by_row
from hf_finetune.evaluation.paired import paired_scores, verdict
from hf_finetune.evaluation.regression import r2_by_row, spearman_by_row
from hf_finetune.features.taggers import sentences_of
from hf_finetune.tasks.choose import task_of

# `throughput` is then of processor time, which other work on the cores changes little.
OURS = "import runpy, time; time.perf_counter = time.process_time; runpy.run_module('hf_finetune', run_name='__main__')"
HERE, SPLITS, LONGEST_S = Path(__file__).parent, ("validation", "test"), 3600


def write_rows(options: argparse.Namespace) -> None:
    """Write train, validation and test .parquet, as hf_finetune splits the data."""
    source = Source(options.data, task=options.task)
    splits, folder = load(source, "text", SplitOptions(max_train_rows=options.rows)), options.folder
    kind, most = task_of(splits), {"validation": options.validation_rows, "test": options.test_rows}
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        assert part is not None, f"{options.data}: no {name} rows"
        if (count := most.get(name)) is not None:
            part = part.select(np.sort(np.random.default_rng(0).permutation(len(part))[:count]))
        if kind.has_words:
            columns = {"tokens": pa.array(sentences_of(part), pa.list_(pa.string()))}
        else:
            columns = {c: pa.array(part[c][:], pa.string()) for c in ("text", "text_pair") if c in part.column_names}
        found = kind.label_column(labels_of(part))
        if options.cuts:
            found = pa.array(np.searchsorted(options.cuts, found.to_numpy()) + 1)
        pq.write_table(pa.table({**columns, "label": found}), folder / f"{name}.parquet")


def write_pairs(options: argparse.Namespace) -> None:
    """Write pairs of a query and a document: its own, or another one, in half of them one with similar words.

    Similar documents are the fifth to thirtieth by TF-IDF: the
    first ones are often of the same program.
    """
    options.folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    sizes = {"train": options.rows, "validation": options.validation_rows or 0, "test": options.test_rows}
    for split, source in (("train", "train"), ("validation", "train"), ("test", "test")):
        table = pq.read_table(f"{options.data}/{source}.parquet").slice(0 if split != "validation" else sizes["train"])
        queries, documents = (table[name].to_pylist()[: sizes[split]] for name in ("query", "document"))
        words = TfidfVectorizer(sublinear_tf=True).fit(documents)
        order_QD = np.argsort(-(words.transform(queries) @ words.transform(documents).T).toarray(), axis=1)
        others = [
            int(rng.choice(order_q[5:30] if rng.random() < 0.5 else order_q[order_q != q]))
            for q, order_q in enumerate(order_QD)
        ]
        pairs = [(q, d, label) for q, other in enumerate(others) for d, label in ((q, "match"), (other, "no match"))]
        pairs = [(q, d, label) for q, d, label in pairs if label == "match" or documents[q] != documents[d]]
        q, d, label = zip(*pairs, strict=True)
        columns = {"text": [queries[i] for i in q], "text_pair": [documents[i] for i in d], "label": label}
        pq.write_table(pa.table(columns), options.folder / f"{split}.parquet")


def children_s() -> float:
    """Return the processor time of all finished processes that this one started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def process(command: list[str]) -> tuple[str, float]:
    """Run a command of Python; return its stdout, and its processor time."""
    before = children_s()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=LONGEST_S)
    if done.returncode:
        raise Failed(done.stderr[-2000:])
    return done.stdout, children_s() - before


def ours(options: argparse.Namespace, scores: Path, flags: list[str]) -> dict[str, Any]:
    """Train and predict; write the scores."""
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        command = ["-c", OURS, "train", str(options.folder), "--model", options.checkpoint]
        command += ["--task", options.task, "--label", "label", "--output", str(run), *flags]
        # Baselines and plots are no part of the rival's run.
        _, processor_s = process([*command, "--evaluate.no-baselines", "--evaluate.no-plots"])
        result = json.loads((run / "result.json").read_text())
        rows = pq.read_table(run / "predictions.parquet")
    saved: dict[str, np.ndarray] = {}
    for split in SPLITS:
        part = rows.filter(pa.compute.equal(rows["split"], split)).sort_by("row")
        predicted = part["predicted"].to_pylist()
        if result["label_task"] == "regression":
            saved[split] = np.array(predicted)
        elif result["label_task"] == "tokens":
            saved[split] = np.array([result["labels"].index(tag) for tags in predicted for tag in tags])
        else:
            saved[split] = np.stack([part[f"p:{name}"].to_numpy() for name in result["labels"]], 1).astype(float)
        if result["label_task"] == "multi-label":
            saved[f"{split}_decided"] = np.array([[name in tags for name in result["labels"]] for tags in predicted])
    np.savez(scores, **saved)
    metrics = {name: found["value"] for name, found in result["metrics"]["validation"].items()}
    return {
        "validation": metrics,
        "processor_s": processor_s,
        "rows_per_processor_s": result["throughput"]["train_rows_per_s"],
        "time": result["time"],
        "peak_mb": result["memory"]["peak_rss_mb"],
        "parity": {name: gate.get("max_abs_difference") for name, gate in result["parity"].items()},
    }


def stock(options: argparse.Namespace, scores: Path, flags: list[str]) -> dict[str, Any]:
    """Train the rival and predict."""
    command = [str(HERE / "stock_tasks.py"), str(options.folder), options.checkpoint, options.task, str(scores)]
    stdout, processor_s = process([*command, *flags])
    return {**json.loads(stdout.splitlines()[-1]), "processor_s": processor_s}


def linear(options: argparse.Namespace, scores: Path) -> dict[str, Any]:
    """Fit the linear baseline and predict."""
    splits = load(Source(str(options.folder), task=options.task, label="label"), "text")
    kind, saved = task_of(splits), {}
    for split, part in (("validation", splits.validation), ("test", splits.test)):
        found = kind.baselines(splits.train, part)["linear"].scores_NC
        if kind.name == "multi-label":
            # Its own thresholds were moved to 0.5.
            saved[f"{split}_decided"] = found >= 0.5
        saved[split] = (
            found.values.argmax(-1) if kind.has_words else found[:, 0] if kind.name == "regression" else found
        )
    np.savez(scores, **saved)
    return {}


def measure(options: argparse.Namespace) -> None:
    """Run what is missing."""
    book, kept = Book(options.output), options.output.with_suffix("")
    kept.mkdir(exist_ok=True)
    limits = ["--epochs", str(options.epochs), "--max-length", str(options.max_length)]

    def line(side: str, seed: int, work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any] | None:
        if options.only and side not in options.only:
            return None
        scores = kept / f"{options.folder.name}-{side.replace(' ', '-')}-{seed}-{'-'.join(limits[1::2])}.npz"
        key = {"data": options.folder.name, "side": side, "seed": seed, "limits": shlex.join(limits)}
        return book.measure(key, lambda: {"scores": scores.name, **work(options, scores, *arguments)})

    if options.linear:
        line("linear", 0, linear)
    variants = dict(each.split("=", 1) for each in options.variants or ["ours="])
    rates = list(options.rates)
    for seed in range(options.seeds):
        for name, flags in variants.items():
            line(name, seed, ours, [*limits, "--seed", str(seed), *shlex.split(flags)])
        lines = {
            rate: line(f"stock {rate:g}", seed, stock, [*limits, "--seed", str(seed), "--learning-rate", str(rate)])
            for rate in rates
        }
        chosen_by = {rate: done["chosen_by"] for rate, done in lines.items() if done}
        rates = sorted(chosen_by, key=lambda rate: chosen_by[rate])[-1:] or rates


def contributions(task: str, labels: Any, saved: Any, split: str, validation: Any) -> dict[str, np.ndarray]:
    """Return for each metric what each row contributes to it; the mean over the rows is the metric (delta method).

    Args:
        labels: of the rows.
        saved: scores by split.
        validation: labels of the validation rows, by which thresholds are chosen.
    """
    scores = saved[split]
    if task == "regression":
        return {"R²": r2_by_row(labels, scores), "Spearman": spearman_by_row(labels[:, 0], scores)}
    if task == "tokens":
        right_N = np.bincount(labels.row_of_value, scores == labels.values)
        accuracy = right_N.sum() / len(scores)
        return {"accuracy": accuracy + (right_N - accuracy * labels.lengths) * len(labels) / len(scores)}
    if task == "multi-label":
        if f"{split}_decided" in saved:
            f1_N = micro_f1_by_row(labels, saved[f"{split}_decided"])
        else:
            cuts = (0.5, best_thresholds(validation, saved["validation"]))
            f1_N = max((micro_f1_by_row(labels, scores >= cut) for cut in cuts), key=np.mean)
        return {"micro F1": f1_N, "mAP": average_precision_by_row(labels, scores)}
    right = {"accuracy": (scores.argmax(1) == labels).astype(float)}
    if task != "ordinal":
        return right
    return {
        "kappa": kappa_by_row(labels, scores.argmax(1)),
        "-MAE": -abs(scores.argmax(1) - labels).astype(float),
        **right,
    }


def table(options: argparse.Namespace) -> str:
    """Return each side's metrics, and its difference from the first side, as Markdown."""
    splits = load(Source(str(options.folder), task=options.task, label="label"), "text")
    labels = {"validation": labels_of(splits.validation), "test": labels_of(splits.test)}
    sides: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    seconds: dict[str, list[tuple[float, float]]] = {}
    for line in read(options.output).values():
        key = line["key"]
        if "error" in line or key["data"] != options.folder.name:
            continue
        name = key["side"] + ("" if options.limits in (None, key["limits"]) else f" ({key['limits']})")
        with np.load(options.output.with_suffix("") / line["scores"]) as saved:
            found = contributions(options.task, labels[options.split], saved, options.split, labels["validation"])
        sides.setdefault(name, {})[key["seed"]] = found
        seconds.setdefault(name, []).append((line.get("processor_s", np.nan), line.get("rows_per_processor_s", np.nan)))
    first = options.first or next(name for name in sides if name != "linear")
    shown = [
        f"| {options.folder.name}, {len(labels[options.split])} {options.split} rows | seeds | metric | value "
        f"| {first} minus this | verdict | processor s | training rows / processor s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in sides.items():
        for metric in next(iter(runs.values())):
            shared = [s for s in sides[first] if s in runs] if name != "linear" else list(sides[first])
            mine = np.stack([sides[first][s][metric] for s in shared])
            others = np.stack([runs[s if s in runs else 0][metric] for s in shared])
            value = np.mean([run[metric].mean() for run in runs.values()])
            cells = [
                name,
                str(len(runs)),
                metric,
                f"{value:.4f}",
                "",
                "",
                *(f"{s:.0f}" for s in np.mean(seconds[name], axis=0)),
            ]
            if name != first:
                between = paired_scores(mine, others)
                cells[4] = "{:+.2f} [{:+.2f}, {:+.2f}]".format(
                    *(100 * v for v in (between.value, between.low, between.high))
                )
                cells[5] = verdict(between)
            shown.append(f"| {' | '.join(cells)} |")
    return "\n".join(shown)


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    rows = commands.add_parser("rows")
    rows.add_argument("data")
    rows.add_argument("folder", type=Path)
    rows.add_argument("--rows", type=int)
    rows.add_argument("--validation-rows", type=int)
    rows.add_argument("--test-rows", type=int)
    rows.add_argument("--cuts", type=float, nargs="+", help="levels of a number, which each cut begins")
    pairs = commands.add_parser("pairs")
    pairs.add_argument("data")
    pairs.add_argument("folder", type=Path)
    pairs.add_argument("--rows", type=int, help="training queries at most; each has two pairs")
    pairs.add_argument("--validation-rows", type=int)
    pairs.add_argument("--test-rows", type=int)
    runs = commands.add_parser("measure")
    runs.add_argument("folder", type=Path)
    runs.add_argument("--output", type=Path, required=True)
    runs.add_argument("--checkpoint", required=True)
    runs.add_argument("--epochs", type=int, default=3)
    runs.add_argument("--max-length", type=int, default=128)
    runs.add_argument("--seeds", type=int, default=3)
    runs.add_argument("--variants", nargs="+", metavar="NAME=FLAGS")
    runs.add_argument("--linear", action="store_true", help="measure the linear baseline")
    runs.add_argument("--rates", nargs="+", type=float, default=[], help="learning rates of the stock Trainer")
    runs.add_argument("--only", nargs="+", metavar="SIDE", help="measure these of the sides")
    shown = commands.add_parser("table")
    shown.add_argument("output", type=Path)
    shown.add_argument("folder", type=Path)
    shown.add_argument("--split", choices=SPLITS, default="test")
    shown.add_argument("--first", metavar="SIDE", help="the side that the others are compared with")
    shown.add_argument("--limits", help="do not name the limits of runs with these")
    for each in (rows, runs, shown):
        each.add_argument("--task")
    options = parser.parse_args()
    if options.command == "rows":
        write_rows(options)
    elif options.command == "pairs":
        write_pairs(options)
    elif options.command == "measure":
        measure(options)
    else:
        print(table(options))


if __name__ == "__main__":
    main()
