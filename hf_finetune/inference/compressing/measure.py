"""What a process of its own measures of a classifier: `python -m hf_finetune.inference.compressing.measure JOB`.

A process of its own has the memory of one classifier, and starts cold.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import psutil

RATE_S, ROUNDS = 3.0, 3
"""Seconds of the measurement of the rate at least, and its rounds."""
LATENCY_S = 1.0


class Job(TypedDict):
    """What is measured."""

    models: list[str]
    """Folders: one to measure, or two whose rates are compared in turns."""
    rows: str
    """Canonical rows, by `Dataset.save_to_disk`."""
    threads: list[int]
    """Numbers of threads, the one of all cores last."""
    is_latency_alone: bool
    """Whether nothing but the latency is measured."""
    output: str


def run(job: Job) -> dict[str, Any]:
    """Measure the job."""
    import torch
    from datasets import Dataset, disable_progress_bars

    from hf_finetune.inference.scoring import Scorer
    from hf_finetune.tasks.trained_model import load_trained

    disable_progress_bars()
    torch.set_num_threads(job["threads"][-1])
    rows = Dataset.load_from_disk(job["rows"])
    if len(job["models"]) > 1:
        scorers = [Scorer(load_trained(model), "auto") for model in job["models"]]
        return {"speedup": _speedup(scorers, rows)}
    model = job["models"][0]
    if job["is_latency_alone"]:
        return {"latency": _latencies(model, rows, job)}
    classifier = load_trained(model)
    Scorer(classifier, "float32").score(rows.select([0]))
    started = {"cold_start_s": round(time.time() - psutil.Process().create_time(), 2)}
    scorer = Scorer(classifier, "auto")
    rates = list(_rates(scorer, rows))
    found = {**started, "peak_rss_mb": peak_rss_mb(), "rows_per_s": round(float(np.median(rates)), 1)}
    return {**found, "format": scorer.report()["precision"]["format"], "latency": _latencies(model, rows, job)}


def peak_rss_mb() -> float:
    """Return the peak memory of this process. `getrusage` would count that of the process which started it, too."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return round(psutil.Process().memory_info().rss / 1e6, 1)
    return round(int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) * 1024 / 1e6, 1)


def _rates(scorer: Any, rows: Any) -> Iterator[float]:
    """Yield the rows per second of each round, after one that compiles kernels and chooses the number format."""
    scorer.score(rows)
    started, rounds = time.perf_counter(), 0
    while rounds < ROUNDS or time.perf_counter() - started < RATE_S:
        before = time.perf_counter()
        scorer.score(rows)
        rounds += 1
        yield len(rows) / (time.perf_counter() - before)


def _latencies(model: str, rows: Any, job: Job) -> list[dict[str, Any]]:
    import torch

    from hf_finetune.compression.latency import latency
    from hf_finetune.tasks.trained_model import load_trained

    found = []
    for threads in job["threads"]:
        # ONNX Runtime takes the number when it loads.
        torch.set_num_threads(threads)
        found += latency(load_trained(model), rows, most_s=LATENCY_S)
    return found


def _speedup(scorers: list[Any], rows: Any) -> dict[str, float]:
    """Return how many times faster the second is than the first: the median of five rounds in turns, and their
    range."""
    for scorer in scorers:
        scorer.score(rows)
    seconds: list[list[float]] = [[], []]
    for number, scorer in zip(range(10), cycle(scorers)):
        before = time.perf_counter()
        scorer.score(rows)
        seconds[number % 2].append(time.perf_counter() - before)
    ratios = np.divide(seconds[0], seconds[1])
    return {
        "value": round(float(np.median(ratios)), 3),
        "low": round(float(ratios.min()), 3),
        "high": round(float(ratios.max()), 3),
    }


if __name__ == "__main__":
    given: Job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(given["output"]).write_text(json.dumps(run(given)), encoding="utf-8")
