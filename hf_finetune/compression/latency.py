"""Latency of a network on rows of the data."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.data.inputs import Rows, columns_of, without_votes
from hf_finetune.evaluation.logits import evaluating
from hf_finetune.tasks.trained_model import TrainedModel

BATCHES = (1, 32)
WARM_UP, CALLS, MOST_S = 3, 200, 4.0
"""Calls before the measured ones; measured ones at most, and their seconds."""


def latency(classifier: TrainedModel, rows: Dataset, *, most_s: float = MOST_S) -> list[dict[str, Any]]:
    """Measure the forward passes of batches of 1 and 32 consecutive rows, whose lengths are those of the data.

    Tokenizing or decoding is not part of it.

    Args:
        most_s: seconds of the measured calls of a size, at most.

    Returns:
        For each size `batch_size`, `threads`, `calls`, and the percentiles `p50_ms`, `p95_ms` and `p99_ms`.
    """
    inputs = classifier.inputs
    encoded = Rows(inputs.encode_in_memory(rows), columns_of(inputs, labels=False))
    found = []
    for size in BATCHES:
        starts = range(0, max(len(encoded) - size + 1, 1), size)
        groups = (encoded.__getitems__(range(s, min(s + size, len(encoded)))) for s in starts)
        batches = [without_votes(inputs.collate(group)) for group in groups]
        seconds = _seconds(classifier, batches, most_s)
        percentiles = np.percentile(seconds, (50, 95, 99)) * 1000
        names = ("p50_ms", "p95_ms", "p99_ms")
        measured = {name: round(float(value), 3) for name, value in zip(names, percentiles, strict=True)}
        found.append(
            {
                "batch_size": min(size, len(encoded)),
                "threads": torch.get_num_threads(),
                "calls": len(seconds),
                **measured,
            }
        )
    return found


def _seconds(classifier: TrainedModel, batches: list[dict[str, Any]], most_s: float) -> list[float]:
    """Return the time of each call, the batches in turns."""
    seconds: list[float] = []
    with evaluating(classifier.model), torch.inference_mode():
        for call in range(WARM_UP + CALLS):
            batch = dict(batches[call % len(batches)])
            started = time.perf_counter()
            classifier.model(**batch)
            if call >= WARM_UP:
                seconds.append(time.perf_counter() - started)
            if sum(seconds) > most_s:
                break
    return seconds
