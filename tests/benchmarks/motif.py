"""DNA with a planted motif at an unknown place, and repeated folds of a small data set of sequences.

python tests/benchmarks/motif.py write motif/                    # train, validation and test files
hf-finetune train motif/ --sequence dna --output runs/motif      # the small network; its baseline counts k-mers
python tests/benchmarks/motif.py compare runs/motif              # the paired difference of accuracy from the baseline
python tests/benchmarks/motif.py folds promoters.csv -- --epochs 60    # arguments of `hf-finetune train`

The motif is two boxes, TTGACA and TATAAT, with 15 to 19 bases between them. Each of its bases is drawn anew with a
probability of 0.2. Half of the sequences have it.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import RepeatedStratifiedKFold

BOXES, GAPS, REDRAWN = ("TTGACA", "TATAAT"), (15, 19), 0.2
SIZES = {"train": 4000, "validation": 1000, "test": 4000}
LENGTH = 200


def sequence(rng: np.random.Generator, *, planted: bool) -> str:
    """Return random bases, with a motif at a random place if `planted`."""
    bases = rng.choice(list("ACGT"), LENGTH)
    if planted:
        gap = int(rng.integers(GAPS[0], GAPS[1] + 1))
        start = int(rng.integers(LENGTH - sum(map(len, BOXES)) - gap + 1))
        for box, place in zip(BOXES, (start, start + len(BOXES[0]) + gap), strict=True):
            for i, base in enumerate(box):
                if rng.random() >= REDRAWN:
                    bases[place + i] = base
    return "".join(bases)


def write(folder: Path, seed: int) -> None:
    """Write train.csv, validation.csv and test.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for split, rows in SIZES.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["sequence", "label"])
            lines.writerows([sequence(rng, planted=i % 2 == 1), ("none", "motif")[i % 2]] for i in range(rows))


def compare(run: Path) -> None:
    """Print accuracies on the test rows, and the paired difference that result.json has."""
    result = json.loads((run / "result.json").read_text())
    own, linear = result["metrics"]["test"]["accuracy"], result["baselines"]["linear"]
    print(f"{result['name']}: accuracy {_interval(own)} on {own['n']} test rows")
    print(f"{linear['name']}: accuracy {_interval(linear['accuracy'])}")
    print(f"difference: {_interval(linear['difference'])}, {linear['difference']['verdict']}")


def folds(data: Path, arguments: Sequence[str], *, splits: int, repeats: int, seed: int) -> None:
    """Train on the rows outside of each fold, and print the accuracies on the folds, and their paired difference."""
    frame = pd.read_csv(data)
    label = frame.columns[-1]
    kfold = RepeatedStratifiedKFold(n_splits=splits, n_repeats=repeats, random_state=seed)
    right = {"network": np.zeros((repeats, len(frame))), "k-mers": np.zeros((repeats, len(frame)))}
    for number, (train, test) in enumerate(kfold.split(frame, frame[label])):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            frame.iloc[train].to_csv(folder / "train.csv", index=False)
            frame.iloc[test].to_csv(folder / "test.csv", index=False)
            command = [sys.executable, "-m", "hf_finetune", "train", str(folder), "--sequence", "dna", *arguments]
            subprocess.run([*command, "--output", str(folder / "run")], check=True, capture_output=True)
            rows = pd.read_parquet(folder / "run" / "predictions.parquet")
            rows = rows[rows.split == "test"].sort_values("row")
            right["network"][number // splits, test] = (rows.label == rows.predicted).to_numpy()
            right["k-mers"][number // splits, test] = _kmers(frame.iloc[train], frame.iloc[test], label)
        print(
            number, {model: each[number // splits, test].mean().round(3) for model, each in right.items()}, flush=True
        )
    # The repeats of a row are one observation, its mean.
    means = {model: each.mean(axis=0) for model, each in right.items()}
    for model, each in {**means, "difference": means["network"] - means["k-mers"]}.items():
        error = 1.96 * each.std(ddof=1) / np.sqrt(len(each))
        print(f"{model}: {each.mean():.3f} [{each.mean() - error:.3f}, {each.mean() + error:.3f}]")


def _kmers(train: pd.DataFrame, test: pd.DataFrame, label: str) -> np.ndarray:
    """Return whether the k-mer baseline of the package is right on the test rows."""
    from datasets import Dataset

    from hf_finetune.features.baselines import linear_baseline

    names = sorted(train[label].unique())
    parts = []
    for part in (train, test):
        texts = ["".join(text.split()).upper() for text in part[part.columns[0]]]
        parts.append(Dataset.from_dict({"text": texts, "label": [names.index(each) for each in part[label]]}))
    predicted = linear_baseline(*parts, num_labels=len(names)).scores_NC.argmax(axis=1)
    return np.asarray(predicted == np.asarray(parts[1]["label"][:]))


def _interval(metric: dict[str, float]) -> str:
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["write", "compare", "folds"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("arguments", nargs="*", help="after --: of `hf-finetune train`")
    options = parser.parse_args()
    if options.command == "write":
        write(options.path, options.seed)
    elif options.command == "compare":
        compare(options.path)
    else:
        folds(options.path, options.arguments, splits=options.splits, repeats=options.repeats, seed=options.seed)


if __name__ == "__main__":
    main()
