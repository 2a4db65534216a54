"""What a setting does to quality: variants of a run on several data sets, paired by seed and by row.

    python tests/benchmarks/variants.py head --checkpoint DIR --data movie=FOLDER banking77=FOLDER spam=FOLDER \\
        [--seeds 5] [--rows N] [--flags "--epochs 2"] --output head.jsonl
    python tests/benchmarks/variants.py head --table head.jsonl [--test]

The first variant of a comparison is the one that the others are held against. Validation rows judge: the verdicts are
those of `evaluation.intervals`, with the margin of defaults, half a point. `--test` prints the test rows' table, once,
after the choice. Every run goes through `pipeline.run`; each is a line of the output file.
"""

import argparse
import dataclasses
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from book import Book, read

from hf_finetune.evaluation.intervals import paired_difference, verdict
from hf_finetune.jobs import train_job
from hf_finetune.pipeline import run
from hf_finetune.recipe import Launch

MARGIN = 0.005
COMPARISONS = {
    "head": {"head fitted first": "", "head from random weights": "--train.no-head-warm-start"},
    "embeddings": {
        "words that occur": "",
        "all words": "--optim.word-embeddings dense",
        "frozen": "--optim.word-embeddings frozen",
    },
    "dropout": {"dropout": "", "none": "--model.dropout 0"},
    "rate": {"1e-4": "", "2e-4": "--train.learning-rate 2e-4", "5e-5": "--train.learning-rate 5e-5"},
}


def measure(data: str, checkpoint: str, seed: int, flags: list[str]) -> dict[str, Any]:
    """One run: which rows of validation and test it has right, and the seconds of its training loop."""
    job, _ = train_job([data, "--model", checkpoint, "--seed", str(seed), *flags], "variants")
    recipe = dataclasses.replace(job.recipe, evaluate=dataclasses.replace(job.recipe.evaluate, baselines=False))
    with tempfile.TemporaryDirectory() as folder:
        result = run(recipe, Launch(output=f"{folder}/run"))
        assert result is not None, "one process"
        rows = pq.read_table(Path(folder) / "run" / "predictions.parquet").to_pylist()
    right: dict[str, list[bool]] = {}
    for row in sorted(rows, key=lambda row: row["row"]):
        right.setdefault(row["split"], []).append(row["label"] == row["predicted"])
    losses = {split: metrics["log_loss"]["value"] for split, metrics in result["metrics"].items()}
    return {"right": right, "log_loss": losses, "train_s": result["time"]["train_s"]}


def table(comparison: str, lines: list[dict[str, Any]], split: str) -> str:
    """Accuracy of every variant on each data set, and its paired difference to the first one, as Markdown."""
    shown = [
        f"| data, {split} rows | variant | accuracy | log loss | difference, points [95%] | verdict | training time |",
        "|---|---|---|---|---|---|---|",
    ]
    for data in dict.fromkeys(line["key"]["data"] for line in lines):
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for line in lines:
            if line["key"]["data"] == data and split in line.get("right", {}):
                found.setdefault(line["key"]["variant"], {})[line["key"]["seed"]] = line
        first = found.get(next(iter(COMPARISONS[comparison])), {})
        for variant, runs in found.items():
            seeds = sorted(runs.keys() & first.keys())
            if not seeds:
                continue
            mine, theirs = ([runs_of[s] for s in seeds] for runs_of in (runs, first))
            right, base = (np.array([line["right"][split] for line in side]) for side in (mine, theirs))
            time = sum(line["train_s"] for line in mine) / sum(line["train_s"] for line in theirs)
            cells = [f"{data}, {right.shape[1]}, {len(seeds)} seeds", variant, f"{right.mean():.4f}"]
            cells.append(f"{np.mean([line['log_loss'][split] for line in mine]):.3f}")
            if runs is first:
                cells += ["", "", "1.00x"]
            else:
                between = paired_difference(right, base)
                points = [100 * v for v in (between.value, between.low, between.high)]
                cells.append("{:+.2f} [{:+.2f}, {:+.2f}]".format(*points))
                cells += [verdict(between, margin=MARGIN), f"{time:.2f}x"]
            shown.append(f"| {' | '.join(cells)} |")
    return "\n".join(shown)


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=COMPARISONS)
    parser.add_argument("--checkpoint", help="folder of a checkpoint")
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, help="training rows of each data set at most")
    parser.add_argument("--flags", default="", help="flags of `hf-finetune train` that all variants take")
    parser.add_argument("--output", type=Path, default=Path("variants.jsonl"))
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a file and measure nothing")
    parser.add_argument("--test", action="store_true", help="judge the test rows: once, when the choice has been made")
    options = parser.parse_args()
    if options.table is None:
        if options.checkpoint is None or not all("=" in pair for pair in options.data):
            parser.error("--checkpoint DIR and --data NAME=FOLDER are needed")
        book, common = Book(options.output), shlex.split(options.flags)
        common += [f"--max-train-rows={options.rows}"] if options.rows else []
        for seed in range(options.seeds):
            for name, source in (pair.split("=", 1) for pair in options.data):
                for variant, flags in COMPARISONS[options.comparison].items():
                    key = {"comparison": options.comparison, "data": name, "variant": variant, "seed": seed}
                    key["flags"] = shlex.join(common)
                    given = [*common, *shlex.split(flags)]
                    book.measure(key, lambda: measure(source, options.checkpoint, seed, given))  # noqa: B023
    lines = [line for line in read(options.table or options.output).values() if "error" not in line]
    lines = [line for line in lines if line["key"]["comparison"] == options.comparison]
    print(table(options.comparison, lines, "test" if options.test else "validation"))


if __name__ == "__main__":
    main()
