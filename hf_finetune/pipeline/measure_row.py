"""Measure what predicting a row takes."""

import time

import numpy as np
from datasets import Dataset
from torch import nn

from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.evaluate import predict_encoded

TIMED_ROWS, FEWEST_ROWS = 128, 32
TIMES, MOST_TIMED_S = 2, 2.0
"""How often the rows are timed, if there is time. The least counts: what else runs on the cores comes and goes."""


def measure_row(run: Run, most_s: float = MOST_TIMED_S) -> float:
    """Return the seconds to predict a row among many, from a few training rows.

    The network is moved to the device of the run, and not changed.

    Args:
        most_s: seconds in which rows are timed. Where the fewest rows, which are read first, take half of them, no more
            are read.
    """
    rows, inputs = run.data.splits.train, run.data.inputs.for_inference()
    network: nn.Module = run.model.network
    network.to(run.context.device)

    def timed(some: Dataset) -> tuple[float, Dataset]:
        started = time.perf_counter()
        # `encode` writes a table, which takes as long for a hundred rows as for thousands.
        encoded = inputs.encode_in_memory(some)
        predict_encoded(network, run, inputs, encoded)
        return time.perf_counter() - started, encoded

    order = np.random.default_rng(0).permutation(len(rows))
    few, more = (rows.select(np.sort(order[:count])) for count in (FEWEST_ROWS, TIMED_ROWS))
    # At first kernels are made for each shape.
    first_s, _ = timed(few)
    read, seconds = few if first_s > most_s / 2 else more, list[float]()
    while not seconds or (len(seconds) < TIMES and sum(seconds) + seconds[-1] <= most_s):
        spent_s, encoded = timed(read)
        seconds.append(spent_s)
    share = _share_of_tokens(inputs.lengths(encoded), run.eval_batch_size)
    return share * min(seconds) / len(read)


def _share_of_tokens(lengths: np.ndarray | None, batch_size: int) -> float:
    """Return the share of tokens that are no padding in batches of rows sorted by length. Among many rows, a batch has
    rows of about one length, and nearly no padding."""
    if lengths is None or not len(lengths):
        return 1.0
    order = np.sort(lengths)
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return float(lengths.sum() / sum(batch[-1] * len(batch) for batch in batches))
