"""What class weights, other losses and other sampling do for rare classes: macro F1, paired by seed and by row.

    python tests/benchmarks/imbalance.py --checkpoint DIR --data FOLDER [--seeds 5] [--rows N] [--flags "--epochs 2"] \\
        [--variants plain Balanced ...] --output imbalance.jsonl
    python tests/benchmarks/imbalance.py --table imbalance.jsonl [--test]

Every variant is held against plain cross-entropy. Validation rows judge; `--test` prints the table of the test rows, once,
after the choice. Every run goes through `pipeline.run`; each is a line of the output file, and a command that is given
again goes on where it stopped.
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

from hf_finetune.evaluation.intervals import paired_difference, paired_macro_f1, verdict
from hf_finetune.jobs import train_job
from hf_finetune.pipeline import run
from hf_finetune.recipe import Launch

VARIANTS = {
    "plain": "",
    "Balanced": "--objective.class-weights Balanced",
    "EffectiveNumber": "--objective.class-weights '{type: EffectiveNumber, beta: 0.999}'",
    "Focal": "--objective.loss Focal",
    "EffectiveNumber, Focal": "--objective.loss Focal --objective.class-weights '{type: EffectiveNumber, beta: 0.999}'",
    "logit adjustment": "--objective.logit-adjustment 1",
    "half of it": "--objective.logit-adjustment 0.5",
    "sampling balanced": "--batching.sampling balanced",
    "sampling square_root": "--batching.sampling square_root",
}


def measure(data: str, checkpoint: str, seed: int, flags: list[str]) -> dict[str, Any]:
    """One run: labels and answers of the validation and the test rows, and the seconds of its training."""
    job, _ = train_job([data, "--model", checkpoint, "--seed", str(seed), *flags], "imbalance")
    evaluate = dataclasses.replace(job.recipe.evaluate, baselines=False, metric="macro_f1")
    recipe = dataclasses.replace(job.recipe, evaluate=evaluate)
    with tempfile.TemporaryDirectory() as folder:
        result = run(recipe, Launch(output=f"{folder}/run"))
        assert result is not None, "one process"
        rows = pq.read_table(Path(folder) / "run" / "predictions.parquet").to_pylist()
    ids = {name: i for i, name in enumerate(result["labels"])}
    labels: dict[str, list[int]] = {}
    answers: dict[str, list[int]] = {}
    for row in sorted(rows, key=lambda row: row["row"]):
        labels.setdefault(row["split"], []).append(ids[row["label"]])
        answers.setdefault(row["split"], []).append(ids[row["predicted"]])
    return {
        "labels": labels,
        "answers": answers,
        "macro_f1": {split: found["macro_f1"]["value"] for split, found in result["metrics"].items()},
        "train_s": result["time"]["train_s"],
    }


def table(lines: list[dict[str, Any]], split: str) -> str:
    """Macro F1 and accuracy of every variant, and their paired differences to the plain runs, as Markdown."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for line in lines:
        if split in line["answers"]:
            found.setdefault(line["key"]["variant"], {})[line["key"]["seed"]] = line
    shown = [
        f"| {split} rows | seeds | macro F1 | difference, points [95%] | verdict | accuracy | difference, points [95%] |",
        "|---|---|---|---|---|---|---|",
    ]
    plain = found.get("plain", {})
    for variant, runs in found.items():
        seeds = sorted(runs.keys() & plain.keys())
        if not seeds:
            continue
        labels = np.array(plain[seeds[0]]["labels"][split])
        mine, theirs = (np.array([of[seed]["answers"][split] for seed in seeds]) for of in (runs, plain))
        cells = [variant, str(len(seeds)), f"{np.mean([runs[seed]['macro_f1'][split] for seed in seeds]):.4f}"]
        if variant == "plain":
            cells += ["", "", f"{(mine == labels).mean():.4f}", ""]
        else:
            macro, accuracy = paired_macro_f1(labels, mine, theirs), paired_difference(mine == labels, theirs == labels)
            cells += [_points(macro), verdict(macro), f"{(mine == labels).mean():.4f}", _points(accuracy)]
        shown.append(f"| {' | '.join(cells)} |")
    return "\n".join(shown)


def _points(difference: Any) -> str:
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * v for v in (difference.value, difference.low, difference.high)))


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="folder of a checkpoint")
    parser.add_argument("--data", help="folder or file of texts")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, help="training rows at most")
    parser.add_argument("--flags", default="", help="flags of `hf-finetune train` that all variants take")
    parser.add_argument("--output", type=Path, default=Path("imbalance.jsonl"))
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a file and measure nothing")
    parser.add_argument("--test", action="store_true", help="judge the test rows: once, when the choice has been made")
    options = parser.parse_args()
    if options.table is None:
        if options.checkpoint is None or options.data is None:
            parser.error("--checkpoint DIR and --data FOLDER are needed")
        book, common = Book(options.output), shlex.split(options.flags)
        common += [f"--max-train-rows={options.rows}"] if options.rows else []
        for seed in range(options.seeds):
            for variant in dict.fromkeys(["plain", *options.variants]):
                key = {"data": Path(options.data).name, "variant": variant, "seed": seed, "flags": shlex.join(common)}
                given = [*common, *shlex.split(VARIANTS[variant])]
                book.measure(key, lambda: measure(options.data, options.checkpoint, seed, given))  # noqa: B023
    lines = [line for line in read(options.table or options.output).values() if "error" not in line]
    print(table(lines, "test" if options.test else "validation"))


if __name__ == "__main__":
    main()
