"""Ours with its defaults against the tuned stock Trainer: quality and wall-clock, interleaved, one process each.

    python tests/benchmarks/versus_stock.py DATA_FOLDER CHECKPOINT [--rates 1e-4 3e-4] [--seeds 3]

DATA_FOLDER holds train.* and test.* with the columns text and label. Prints a Markdown table, and the paired difference
over rows and seeds against the rival at its best rate.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from hf_finetune.evaluation.intervals import paired_difference, verdict


def ours(data: Path, checkpoint: str, seed: int, extra: list[str]) -> dict:
    """`hf-finetune train` with its defaults, as a user starts it."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        command = ["hf-finetune", "train", str(data), "--model", checkpoint, "--output", str(output), "--json"]
        answer = subprocess.run([*command, "--seed", str(seed), *extra], stdout=subprocess.PIPE, check=True)
        result = json.loads(answer.stdout)
        rows = pq.read_table(output / "predictions.parquet").to_pandas()
    judged = rows[rows["split"] == "test"]
    return {
        "accuracy": result["metrics"]["test"]["accuracy"]["value"],
        "correct": (judged["label"] == judged["predicted"]).tolist(),
        "train_rows_per_s": result["throughput"]["train_rows_per_s"],
        "predict_rows_per_s": result["throughput"]["predict_rows_per_s"],
        "wall_s": result["time"]["total_s"],
    }


def stock(data: Path, checkpoint: str, rate: float, seed: int) -> dict:
    """The rival at one learning rate."""
    files = [str(next(data.glob(f"{split}.*"))) for split in ("train", "test")]
    command = [sys.executable, str(Path(__file__).parent / "stock_trainer.py"), *files, checkpoint, str(rate)]
    answer = subprocess.run([*command, "--seed", str(seed)], stdout=subprocess.PIPE, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("checkpoint")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="further flags of hf-finetune train")
    options = parser.parse_args()
    runs: dict[str, list[dict]] = {}
    for seed in range(options.seeds):
        runs.setdefault("ours", []).append(ours(options.data, options.checkpoint, seed, options.flags))
        for rate in options.rates:
            runs.setdefault(f"stock {rate:g}", []).append(stock(options.data, options.checkpoint, rate, seed))
    print(f"| {options.data.name} | accuracy | train rows/s | predict rows/s | wall s | wall against ours |")
    print("|---|---|---|---|---|---|")
    mean = {
        name: {k: float(np.mean([r[k] for r in found])) for k in found[0] if k != "correct"}
        for name, found in runs.items()
    }
    for name, m in mean.items():
        ratio = m["wall_s"] / mean["ours"]["wall_s"]
        print(
            f"| {name} | {m['accuracy']:.4f} | {m['train_rows_per_s']:.0f} | {m['predict_rows_per_s']:.0f} "
            f"| {m['wall_s']:.0f} | {ratio:.2f}x |"
        )
    best = max((n for n in mean if n != "ours"), key=lambda n: mean[n]["accuracy"])
    difference = paired_difference(
        np.array([r["correct"] for r in runs["ours"]]), np.array([r["correct"] for r in runs[best]])
    )
    print(
        f"\nours - {best}: {100 * difference.value:+.2f} points "
        f"[{100 * difference.low:+.2f}, {100 * difference.high:+.2f}] over {options.seeds} seed(s): {verdict(difference)}"
    )


if __name__ == "__main__":
    main()
