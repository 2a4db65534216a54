"""What a quickstart trains on: labels of each class, length, epochs and rate, chosen on its validation rows.

    python tests/benchmarks/first_minute.py [VARIANT ...] [--recipe quickstart_image] [--seeds 3] --output first_minute.jsonl
    python tests/benchmarks/first_minute.py --table first_minute.jsonl

Each run is the shipped recipe with the flags of a variant. A seed draws the labeled rows, the order and the dropout. The
test rows of the recipe are removed before the first run: training and validation rows are written as files, and the
linear baseline is compared with the model on the validation rows. A command that is given again goes on where it stopped.
"""

import argparse
import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from book import Book, read

from hf_finetune import Launch, Recipe
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.run_job import RunJob, load_recipe
from hf_finetune.pipeline.load_data import load_splits
from hf_finetune.pipeline.run import run


def without_test(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe on its training and validation rows, written to `folder`; all labeled rows, to be drawn from."""
    splits = load_splits(dataclasses.replace(recipe.data, rows_per_class=None))
    for name in ("train", "validation"):
        rows = getattr(splits, name)
        labels = np.array(splits.labels)[np.asarray(rows["label"][:])]
        if recipe.kind == "text":
            rows.to_pandas()[["text"]].assign(label=labels).to_parquet(folder / f"{name}.parquet")
            continue
        for image, label in zip(rows.to_pandas()["image"], labels, strict=True):
            target = folder / name / label
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(image["path"], target)
    data = dataclasses.replace(recipe.data, path=str(folder), test_fraction=0.0)
    return dataclasses.replace(recipe, data=data)


def measure(recipe: Recipe, flags: list[str], seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        command = [*flags, "--seed", str(seed), "--data.split-seed", str(seed), "--output", f"{temporary}/run"]
        job = parse_run(RunJob(recipe), command, "first_minute")
        result = run(job.recipe, Launch(output=job.launch.output))
    assert result is not None, "one process"
    assert list(result["metrics"]) == ["validation"], "no test rows"
    linear = result["baselines"]["linear"]
    return {
        "accuracy": result["metrics"]["validation"]["accuracy"]["value"],
        "log_loss": result["metrics"]["validation"]["log_loss"]["value"],
        "linear": linear["accuracy"]["value"],
        **{name: linear["difference"][name] for name in ("low", "high")},
        "rows": result["rows"],
        "truncated": [doubt["message"] for doubt in result["doubts"] if doubt["name"] == "truncated"],
        "steps": result["steps"],
        "best": result.get("best"),
        "time": result["time"],
    }


def table(path: Path) -> None:
    """One line a variant: means over seeds, and the lowest and highest bound of the paired differences."""
    variants: dict[str, list[dict[str, Any]]] = {}
    for line in read(path).values():
        variants.setdefault(line["key"]["flags"] or "as shipped", []).append(line)
    print("| flags | seeds | accuracy | linear | difference, points | lowest bound | log loss | training s |")
    print("|---|---|---|---|---|---|---|---|")
    for flags, lines in variants.items():
        ours, linear, loss = (np.array([line[name] for line in lines]) for name in ("accuracy", "linear", "log_loss"))
        low = 100 * min(line["low"] for line in lines)
        seconds = np.mean([line["time"]["train_s"] for line in lines])
        print(
            f"| `{flags}` | {len(lines)} | {ours.mean():.4f} | {linear.mean():.4f} | {100 * (ours - linear).mean():+.1f} "
            f"| {low:+.1f} | {loss.mean():.3f} | {seconds:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=[""], help="flags of the recipe, one text a variant")
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("first_minute.jsonl"))
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    if given.table:
        return table(given.table)
    book = Book(given.output)
    with tempfile.TemporaryDirectory() as folder:
        recipe = without_test(load_recipe(given.recipe), Path(folder))
        for seed in range(given.seeds):
            for flags in given.variants:
                book.measure({"flags": flags, "seed": seed}, lambda f=flags, s=seed: measure(recipe, f.split(), s))
    table(given.output)


if __name__ == "__main__":
    main()
