"""Encode the rows of a run: texts to tokens, images to pixels, once."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass

from accelerate import PartialState
from datasets import Dataset

from hf_finetune.data.batching import StepBatches
from hf_finetune.data.inputs import TextInputs
from hf_finetune.pipeline.batching import step_batches
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.stopwatch import Stopwatch

logger = logging.getLogger("hf_finetune.run")


@dataclass(frozen=True)
class EncodedRows:
    """Encoded training and validation rows, and the steps that the training rows make."""

    train: Dataset
    validation: Dataset
    epoch: StepBatches
    """The optimizer steps of an epoch."""
    steps: int
    """Of the whole training."""
    truncated_share: float | None
    """Of the training texts; None of images."""


def encode_rows(run: PreparedRun, clock: Stopwatch) -> EncodedRows:
    """Encode the training and validation rows, and count the steps.

    Raises:
        InputError: a token budget that is too small, see `StepBatches`.
    """
    inputs, splits, train = run.data.inputs, run.data.splits, run.recipe.train
    # One process decodes images, the others find them decoded.
    first = PartialState().main_process_first() if inputs.caches_rows else nullcontext()
    with clock.measure("encode_s"), first:
        train_rows, validation_rows = inputs.encode(splits.train), inputs.encode(splits.validation)
    epoch = step_batches(run, inputs.lengths(train_rows))
    truncated = inputs.truncated_share(train_rows)
    if truncated and isinstance(inputs, TextInputs):
        logger.warning(
            "%.1f%% of the training texts are cut off at --max-length %d", 100 * truncated, inputs.max_length
        )
    steps = epoch.total_steps(train.num_train_epochs, train.max_steps)
    return EncodedRows(train_rows, validation_rows, epoch, steps, None if truncated is None else round(truncated, 4))
