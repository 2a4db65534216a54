"""What a trainer is made of, besides its model and its TrainingArguments: a few composed objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from datasets import Dataset
from transformers import TrainerCallback

from hf_finetune.augmentation.augmenter import Augmenter
from hf_finetune.data.inputs import Inputs, TextInputs
from hf_finetune.data.sampling import Sampling
from hf_finetune.evaluation.metrics import classification_metrics, softmax
from hf_finetune.models.kernels.shortcuts import Shortcuts
from hf_finetune.training.best_weights import WeightAveraging
from hf_finetune.training.hooks import Collate, Hook, SummedLoss
from hf_finetune.training.losses.weighted import CROSS_ENTROPY
from hf_finetune.training.optim.update_rule import UpdateRule

Metrics: TypeAlias = Callable[[np.ndarray, np.ndarray], dict[str, float]]
"""`(labels (N,), logits (N, C)) -> {name: value}`"""


def metrics_of_logits(labels_N: np.ndarray, logits_NC: np.ndarray) -> dict[str, float]:
    """Metrics of a classifier."""
    return classification_metrics(labels_N, softmax(logits_NC))


@dataclass(frozen=True)
class TrainingData:
    """What is trained on, and what chooses the epoch."""

    train: Dataset
    """Encoded rows with a `label` column, see `data.inputs`."""
    validation: Dataset
    """Likewise."""
    inputs: Inputs
    """Turns rows into tensors."""
    augmentation: Augmenter | None = None
    """Online augmentation: changes the training rows, anew in every epoch."""
    metrics: Metrics = metrics_of_logits
    """Of the validation rows."""


@dataclass(frozen=True)
class BatchPlan:
    """How rows become optimizer steps and micro-batches."""

    rows_per_step: int
    """Rows of an optimizer step over all processes and accumulation."""
    by_length: bool = True
    """Put texts of like length into one step."""
    token_budget: int | None = None
    """Padded tokens of an optimizer step in place of `rows_per_step`, see `StepBatches`."""
    unpadded: bool = False
    """Lay texts end to end, for a model that `models.kernels.unpadded.use_unpadded` allows."""
    sampling: Sampling = "none"
    """Which rows make an epoch, see `data.sampling.class_quotas`."""

    def collate(self, inputs: Inputs) -> Collate:
        """What makes the model's inputs of encoded rows."""
        if not self.unpadded:
            return inputs.collate
        assert isinstance(inputs, TextInputs), "only texts have padding"
        return inputs.pack


@dataclass(frozen=True)
class TrainingSetup:
    """All that a trainer needs beside model and TrainingArguments. A variant is `dataclasses.replace(setup, ...)`."""

    data: TrainingData
    batching: BatchPlan
    loss: SummedLoss = CROSS_ENTROPY
    """Sum over the rows of a micro-batch."""
    update: UpdateRule = UpdateRule()
    averaging: WeightAveraging = field(default_factory=WeightAveraging)
    shortcuts: Shortcuts = Shortcuts()
    """What is computed in another way than the library does."""
    hooks: tuple[Hook, ...] = ()
    """Techniques, in the order in which they are called. One that changes a micro-batch comes before SAM, which keeps
    it."""
    callbacks: tuple[TrainerCallback, ...] = ()
    """What watches or stops the training."""
