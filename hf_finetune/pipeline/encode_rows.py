"""Encode the rows of a run once: texts to tokens, images to pixels."""

import logging
from contextlib import nullcontext
from dataclasses import dataclass

from accelerate import PartialState
from datasets import Dataset

from hf_finetune.data.batching import StepBatches
from hf_finetune.data.inputs import TextInputs
from hf_finetune.data.truncation import Truncation
from hf_finetune.models.processors import position_limit
from hf_finetune.pipeline.batch_plan import step_batches
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.stopwatch import Stopwatch

logger = logging.getLogger("hf_finetune.run")


@dataclass(frozen=True)
class EncodedRows:
    """Encoded training and validation rows, and their optimizer steps."""

    train: Dataset
    validation: Dataset
    epoch: StepBatches
    """Optimizer steps of an epoch."""
    steps: int
    """Optimizer steps of the run."""
    truncation: Truncation | None
    """How many of the training texts are truncated. None for images."""


def encode_rows(run: Run, clock: Stopwatch) -> EncodedRows:
    """Encode the training and validation rows, and count the optimizer steps.

    Raises:
        InputError: the token budget is too small, see `StepBatches`.
    """
    inputs, splits, train = run.data.inputs, run.data.splits, run.recipe.train
    # The main process decodes the images into the cache, from which the others read.
    first = PartialState().main_process_first() if inputs.caches_rows else nullcontext()
    with clock.measure("encode_s", inputs.encoding), first:
        train_rows, validation_rows = run.encoded or (inputs.encode(splits.train), inputs.encode(splits.validation))
    epoch = step_batches(run, inputs.lengths(train_rows))
    truncation = (
        inputs.truncation(train_rows, limit=position_limit(run.model.network.config))
        if isinstance(inputs, TextInputs)
        else None
    )
    if truncation is not None and truncation.share and not run.is_noted:
        logger.warning(
            "%.1f%% of the training texts are cut off at %d tokens; %s",
            100 * truncation.share,
            truncation.max_length,
            truncation.proposal,
        )
    steps = epoch.total_steps(train.epochs, train.max_steps)
    return EncodedRows(train_rows, validation_rows, epoch, steps, truncation)
