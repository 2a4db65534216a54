"""The rows of a data set as hf_finetune divides them, in files that both sides of a comparison read.

    python tests/benchmarks/same_rows.py DATA FOLDER [--rows N] [--test-rows N] [--per-class K --repeats R --seed S]

Writes train, validation and test .parquet with the columns text (or image) and label, the label as its name. With
`--per-class` train has K rows of every class, or all of a smaller one; with `--repeats` each of them R times, so that
an epoch has steps enough where rows are few: a row that stands R times is augmented in R ways."""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_finetune.data.config import Source, SplitOptions
from hf_finetune.data.loading import load


def few(labels_N: np.ndarray, per_class: int | None, seed: int) -> np.ndarray:
    """Places of so many random rows of every class, in order; None: of all rows."""
    if per_class is None:
        return np.arange(len(labels_N))
    order_N = np.random.default_rng(seed).permutation(len(labels_N))
    return np.sort(np.concatenate([order_N[labels_N[order_N] == label][:per_class] for label in np.unique(labels_N)]))


def main() -> None:
    """Read, cut, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=("text", "image"), default="text")
    parser.add_argument("--rows", type=int, help="training rows at most")
    parser.add_argument("--test-rows", type=int, help="rows of validation and of test at most")
    parser.add_argument("--per-class", type=int, help="training rows of each class at most")
    parser.add_argument("--repeats", type=int, default=1, help="how often each training row is written")
    parser.add_argument("--seed", type=int, default=0, help="of the rows that --per-class draws")
    options = parser.parse_args()
    splits = load(Source(options.data), options.kind, SplitOptions(max_train_rows=options.rows))
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        table = rows.with_format("arrow")[:]
        if name == "train":
            kept = few(table["label"].to_numpy(), options.per_class, options.seed)
            table = table.take(np.tile(kept, options.repeats))
        elif options.test_rows is not None:
            kept = np.random.default_rng(0).permutation(len(table))[: options.test_rows]
            table = table.take(np.sort(kept))
        labels = pa.array([splits.labels[i] for i in table["label"].to_pylist()])
        given = pa.chunked_array(
            [c.storage if isinstance(c, pa.ExtensionArray) else c for c in table[options.kind].chunks]
        )
        pq.write_table(pa.table({options.kind: given, "label": labels}), options.folder / f"{name}.parquet")


if __name__ == "__main__":
    main()
