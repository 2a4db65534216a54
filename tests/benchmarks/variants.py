"""What a setting does to quality: variants of a run on several data sets, paired by seed and by row.

    python tests/benchmarks/variants.py defaults --checkpoint DIR --data movie=FOLDER banking77=FOLDER spam=FOLDER \
        [--seeds 5] [--rows N] [--flags "--epochs 2"] [--variants NAME ...] [--given NAME=TEXT ...] --output
        defaults.jsonl
    python tests/benchmarks/variants.py defaults --table defaults.jsonl [--test]

The first variant of a comparison is the one that the others are held against. Validation rows judge, by accuracy, or by
macro F1 where rare classes are the subject; the verdicts are those of `evaluation.intervals`, with the margin of
defaults, half a point. `--test` prints the table of the test rows, once, after the choice. Every run goes through
`pipeline.run.run`; each is a line of the output file, and a command that is given again goes on where it stopped.
`{seed}` in a data folder's name stands for the seed (each with rows of its own, see `same_rows.py`), in a variant's
flags `{seed}` and `{name}`, the data's, as well; what else stands there in braces, such as the folder of `hf-finetune
search`'s policies, is said by `--given searched=FOLDER`, or the variant is left out. """

import argparse
import dataclasses
import json
import re
import shlex
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from book import Book, read

from hf_finetune import Launch
from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.paired import paired_difference, paired_macro_f1, verdict
from hf_finetune.pipeline.run import run

MARGIN = 0.005
EFFECTIVE = "--objective.class-weights '{type: EffectiveNumber, beta: 0.999}'"
COMPARISONS = {
    # What a run does unless told otherwise, against its neighbours: one thing at a time.
    "defaults": {
        "as it comes": "",
        "head from random weights": "--train.no-head-warm-start",
        "head fitted in any case": "--train.head-least-explained=-100",
        "head fitted in any case, C 0.1": "--train.head-least-explained=-100 --train.head-inverse-strength 0.1",
        "rate 2e-4": "--train.learning-rate 2e-4",
        "rate 5e-5": "--train.learning-rate 5e-5",
        "all word embeddings": "--optim.word-embeddings dense",
        "word embeddings frozen": "--optim.word-embeddings frozen",
        "rows at random": "--batching.no-by-length",
        "plain dropout": "--model.no-fast-dropout",
        "no dropout": "--model.dropout 0",
        "layer decay 0.9": "--optim.layer-decay 0.9",
        "EMA of the weights": "--averaging.ema-decay 0.99",
        "soup of the epochs": "--averaging.soup",
        "mean pooling": "--model.pooling mean",
    },
    # The same of the other methods, each with `--flags "--method M"`: what the head starts from, and how fast it goes
    # on.
    "lora": {
        "as it comes": "",
        "head from random weights": "--train.no-head-warm-start",
        "rate 3e-4": "--train.learning-rate 3e-4",
        "rate 2e-3": "--train.learning-rate 2e-3",
    },
    "top": {
        "as it comes": "",
        "head from random weights": "--train.no-head-warm-start",
        "rate 1e-4": "--train.learning-rate 1e-4",
        "rate 1e-3": "--train.learning-rate 1e-3",
    },
    "head": {
        "as it comes": "",
        "head from random weights": "--train.no-head-warm-start",
        "C 0.01": "--train.head-inverse-strength 0.01",
        "C 1": "--train.head-inverse-strength 1",
        "C 1, rate 1e-4": "--train.head-inverse-strength 1 --train.learning-rate 1e-4",
        "rate 1e-4": "--train.learning-rate 1e-4",
        "rate 3e-4": "--train.learning-rate 3e-4",
        "rate 3e-3": "--train.learning-rate 3e-3",
        "mean pooling": "--model.pooling mean",
    },
    "texts": {
        "none": "",
        "Eda": "--data.augment [Eda]",
        "Aeda": "--data.augment [Aeda]",
        "typos": "--data.augment [KeyboardTypos]",
        "Mixup": "--objective.mix [Mixup]",
        "searched": "--config {searched}/{name}/policy.yaml",
    },
    "images": {
        "none": "",
        "Mild": "--data.augment [Mild]",
        "TrivialAugment": "--data.augment [TrivialAugment]",
        "ThreeAugment": "--data.augment [ThreeAugment]",
        "CutMix": "--objective.mix [CutMix]",
        "searched": "--config {searched}/{name}/policy.yaml",
    },
    # Published policies as they come, for `--against` another version of the package.
    "policies": {
        "AutoAugment": "--data.augment [AutoAugment]",
        "RandAugment": "--data.augment [RandAugment]",
        "TrivialAugment": "--data.augment [TrivialAugment]",
        "AugMix": "--data.augment [AugMix]",
    },
    # A student by itself, by itself for as many steps as with further rows, and with a teacher: of its labelled rows,
    # and of further ones without labels (`--given teachers=FOLDER more=FOLDER epochs=9`).
    "students": {
        "alone": "",
        "alone, more epochs": "--epochs {epochs}",
        "taught": "--teacher {teachers}/{name}",
        "taught, its inside too": "--teacher {teachers}/{name} --objective.kinds '[SoftTargets, HiddenStates]'",
        "taught, further rows": "--teacher {teachers}/{name} --unlabeled {more}/{name}.parquet",
    },
    "imbalance": {
        "plain": "",
        "Balanced": "--objective.class-weights Balanced",
        "EffectiveNumber": EFFECTIVE,
        "Focal": "--objective.loss Focal",
        "EffectiveNumber, Focal": f"--objective.loss Focal {EFFECTIVE}",
        "logit adjustment": "--objective.logit-adjustment 1",
        "half of it": "--objective.logit-adjustment 0.5",
        "rows balanced": "--batching.sampling balanced",
        "rows by square root": "--batching.sampling square_root",
    },
}
METRIC = {"imbalance": "macro_f1"}


def filled(flags: str, texts: dict[str, str]) -> str | None:
    """With each {NAME} replaced; None where one has no text. YAML's braces, as in {type: Focal}, are none."""
    names = set(re.findall(r"\{(\w+)\}", flags))
    if not names <= texts.keys():
        return None
    for name in names:
        flags = flags.replace(f"{{{name}}}", texts[name])
    return flags


def measure(data: str, checkpoint: str, seed: int, flags: list[str], metric: str, kept: Path | None) -> dict[str, Any]:
    """One run: labels and answers of the validation and the test rows, its metrics, seconds and size; in `kept`, if
    any."""
    job = parse_train(TrainJob, [data, "--model", checkpoint, "--seed", str(seed), *flags], "variants")
    evaluate = dataclasses.replace(job.recipe.evaluate, baselines=False, metric=metric)
    recipe = dataclasses.replace(job.recipe, evaluate=evaluate)
    with tempfile.TemporaryDirectory() as temporary:
        folder = kept or Path(temporary) / "run"
        result = run(recipe, Launch(output=str(folder), resume=folder.exists()))
        assert result is not None, "one process"
        rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    ids = {name: i for i, name in enumerate(result["labels"])}
    labels: dict[str, list[int]] = {}
    answers: dict[str, list[int]] = {}
    for row in sorted(rows, key=lambda row: row["row"]):
        labels.setdefault(row["split"], []).append(ids[row["label"]])
        answers.setdefault(row["split"], []).append(ids[row["predicted"]])
    values = {
        split: {name: found[name]["value"] for name in ("accuracy", "macro_f1", "log_loss")}
        for split, found in result["metrics"].items()
    }
    seconds = {
        name: result["time"][name] for name in ("train_s", "train_loop_s", "teacher_s") if name in result["time"]
    }
    return {"labels": labels, "answers": answers, "metrics": values, **seconds, "parameters": result["parameters"]}


def difference(metric: str, labels: np.ndarray, mine: np.ndarray, theirs: np.ndarray) -> Interval:
    """Of two variants' answers, shape (seeds, rows), to the same rows."""
    if metric == "macro_f1":
        return paired_macro_f1(labels, mine, theirs)
    return paired_difference(mine == labels, theirs == labels)


def table(comparison: str, lines: list[dict[str, Any]], split: str) -> str:
    """The metric of every variant on each data set, and its paired difference to the first one, as Markdown."""
    metric = METRIC.get(comparison, "accuracy")
    shown = [
        f"| data, {split} rows | variant | {metric} | log loss | difference, points [95%] | verdict | training time |",
        "|---|---|---|---|---|---|---|",
    ]
    for data in dict.fromkeys(line["key"]["data"] for line in lines):
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for line in lines:
            if line["key"]["data"] == data and split in line["answers"]:
                found.setdefault(line["key"]["variant"], {})[line["key"]["seed"]] = line
        first = found.get(next(iter(COMPARISONS[comparison])), {})
        for variant, runs in found.items():
            seeds = sorted(runs.keys() & first.keys())
            if not seeds:
                continue
            mine, theirs = ([of[seed] for seed in seeds] for of in (runs, first))
            labels = np.array(theirs[0]["labels"][split])
            cells = [f"{data}, {len(labels)}, {len(seeds)} seeds", variant]
            cells += [
                f"{np.mean([line['metrics'][split][name] for line in mine]):.4f}" for name in (metric, "log_loss")
            ]
            if runs is first:
                cells += ["", "", "1.00x"]
            else:
                answers = (np.array([line["answers"][split] for line in side]) for side in (mine, theirs))
                between = difference(metric, labels, *answers)
                points = [100 * v for v in (between.value, between.low, between.high)]
                time = sum(line["train_s"] for line in mine) / sum(line["train_s"] for line in theirs)
                cells += ["{:+.2f} [{:+.2f}, {:+.2f}]".format(*points), verdict(between, margin=MARGIN), f"{time:.2f}x"]
            shown.append(f"| {' | '.join(cells)} |")
    return "\n".join(shown)


def version_table(lines: list[dict[str, Any]], earlier: list[dict[str, Any]], split: str) -> str:
    """The accuracy of every variant under two versions of the package, paired by seed and row; then of all variants
    together, as further seeds."""
    before = {json.dumps(line["key"], sort_keys=True): line for line in earlier}
    shown = [
        f"| data, {split} rows | variant | earlier | now | difference, points [95%] | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for data in dict.fromkeys(line["key"]["data"] for line in lines):
        groups: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
        for line in lines:
            then = before.get(json.dumps(line["key"], sort_keys=True))
            if line["key"]["data"] == data and then is not None:
                groups.setdefault(line["key"]["variant"], []).append((line, then))
        groups["all"] = [pair for pairs in groups.values() for pair in pairs]
        for variant, pairs in groups.items():
            labels = np.array([line["labels"][split] for line, _ in pairs])
            now, then = (
                np.array([side["answers"][split] for side in sides]) == labels for sides in zip(*pairs, strict=True)
            )
            between = paired_difference(now, then)
            points = [100 * v for v in (between.value, between.low, between.high)]
            cells = [
                f"{data}, {labels.shape[1]}, {len(pairs)} runs",
                variant,
                f"{then.mean():.4f}",
                f"{now.mean():.4f}",
            ]
            cells += ["{:+.2f} [{:+.2f}, {:+.2f}]".format(*points), verdict(between)]
            shown.append(f"| {' | '.join(cells)} |")
    return "\n".join(shown)


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=COMPARISONS)
    parser.add_argument("--checkpoint", help="folder of a checkpoint")
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="of the comparison. Default: all")
    parser.add_argument("--given", nargs="+", default=[], metavar="NAME=TEXT", help="of {NAME} in a variant's flags")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the runs, in FOLDER/DATA/VARIANT/SEED")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, help="training rows of each data set at most")
    parser.add_argument("--flags", default="", help="flags of `hf-finetune train` that all variants take")
    parser.add_argument("--output", type=Path, default=Path("variants.jsonl"))
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a file and measure nothing")
    parser.add_argument("--against", type=Path, metavar="FILE", help="the same runs of another version of the package")
    parser.add_argument("--test", action="store_true", help="judge the test rows: once, when the choice has been made")
    options = parser.parse_args()
    variants = COMPARISONS[options.comparison]
    given = dict(pair.split("=", 1) for pair in options.given)
    unknown = set(options.variants or ()) - variants.keys()
    if unknown:
        parser.error(f"--variants takes {', '.join(variants)}")
    if options.table is None:
        if options.checkpoint is None or not all("=" in pair for pair in options.data):
            parser.error("--checkpoint DIR and --data NAME=FOLDER are needed")
        book, common = Book(options.output), shlex.split(options.flags)
        common += [f"--max-train-rows={options.rows}"] if options.rows else []
        wanted = dict.fromkeys([next(iter(variants)), *(options.variants or variants)])
        metric = METRIC.get(options.comparison, "accuracy")
        for seed in range(options.seeds):
            for name, source in (pair.split("=", 1) for pair in options.data):
                for variant in wanted:
                    key = {"comparison": options.comparison, "data": name, "variant": variant, "seed": seed}
                    key["flags"] = shlex.join(common)
                    texts = {**given, "name": name, "seed": str(seed)}
                    flags = filled(variants[variant], texts)
                    if flags is None:
                        continue
                    kept = options.keep and options.keep / name / variant / str(seed)
                    run_one = partial(measure, source.replace("{seed}", str(seed)), options.checkpoint, seed)
                    book.measure(key, partial(run_one, [*common, *shlex.split(flags)], metric, kept))
    lines = [line for line in read(options.table or options.output).values() if "error" not in line]
    lines = [line for line in lines if line["key"]["comparison"] == options.comparison]
    split = "test" if options.test else "validation"
    if options.against is not None:
        print(version_table(lines, list(read(options.against).values()), split))
    else:
        print(table(options.comparison, lines, split))


if __name__ == "__main__":
    main()
