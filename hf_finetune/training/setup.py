"""The objects that a trainer is composed of, besides its model and its TrainingArguments."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from hf_finetune.augmentation.augmenter import Augmenter
from hf_finetune.augmentation.compose import depends_on_progress
from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.batching import Progress, StepBatches
from hf_finetune.data.inputs import EpochRows, Inputs, Rows, TextInputs, columns_of
from hf_finetune.data.sampling import Sampling, class_draw
from hf_finetune.evaluation.metrics import classification_metrics, softmax
from hf_finetune.models.kernels.shortcuts import Shortcuts
from hf_finetune.models.kernels.unpadded import accept_packed, flash_attention, flash_fits
from hf_finetune.training.best_weights import WeightAveraging
from hf_finetune.training.hooks import Collate, Hook, SummedLoss
from hf_finetune.training.latest_epoch import LatestEpoch
from hf_finetune.training.losses.weighted import CROSS_ENTROPY
from hf_finetune.training.optim.update_rule import UpdateRule

Metrics: TypeAlias = Callable[[Any, Any], dict[str, float]]
"""`(labels (N,) or (N, C), logits (N, C)) -> {name: value}`; of words both are `Ragged`"""


def metrics_of_logits(labels_N: np.ndarray, logits_NC: np.ndarray) -> dict[str, float]:
    """Return the metrics of a classifier with one class a row."""
    return classification_metrics(labels_N, softmax(logits_NC))


@dataclass(frozen=True)
class TrainingData:
    """The rows that train the model and those that choose its best epoch."""

    train: Dataset
    """Encoded rows with a `label` column, see `data.inputs`."""
    validation: Dataset
    """Encoded rows with a `label` column."""
    inputs: Inputs
    """Encodes and collates rows."""
    metrics: Metrics = metrics_of_logits
    """Scores the validation rows, see `tasks.base.Task.epoch_values`."""
    augmentation: Augmenter | None = None
    """Online augmentation: changes the training rows anew in each epoch."""

    def training_rows(self, batches: StepBatches, args: TrainingArguments) -> EpochRows:
        """Return the training rows as the loader reads them, augmented where there is online augmentation."""
        augmentation = self.augmentation
        if augmentation is None:
            return Rows(self.train, columns_of(self.inputs, labels=True))
        if depends_on_progress(augmentation.operations):
            steps = batches.total_steps(args.num_train_epochs, args.max_steps)
            augmentation = replace(augmentation, progress=Progress(batches, steps))
        return AugmentedRows(self.train, self.inputs, augmentation)


@dataclass(frozen=True)
class BatchPlan:
    """How rows become optimizer steps and micro-batches."""

    rows_per_step: int
    """Rows of an optimizer step over all processes and accumulation."""
    by_length: bool = True
    """Batch texts of similar length."""
    token_budget: int | None = None
    """Padded tokens of an optimizer step in place of `rows_per_step`, see `StepBatches`."""
    unpadded: bool = False
    """Concatenate texts without padding, for a model that `models.kernels.unpadded.use_unpadded` allows."""
    sampling: Sampling = "none"
    """Rows of an epoch, see `data.sampling.class_quotas`."""

    def step_batches(
        self,
        rows: Dataset,
        lengths: np.ndarray | None,
        *,
        accumulation: int,
        seed: int,
        several_views: bool = False,
        process: int = 0,
        processes: int = 1,
    ) -> StepBatches:
        """Return the batch sampler of one process, see `StepBatches`.

        Args:
            rows: training rows with a `label` column.
            lengths: tokens of each row, shape (rows,). None for images.
        """
        return StepBatches(
            len(rows) if lengths is None else len(lengths),
            rows_per_step=self.rows_per_step,
            accumulation=accumulation,
            lengths=lengths if self.by_length else None,
            token_budget=self.token_budget,
            draw=class_draw(rows, self.sampling),
            several_views=several_views,
            seed=seed,
            process=process,
            processes=processes,
        )

    def collate(self, inputs: Inputs) -> Collate:
        """Return the function that collates encoded rows into the model's inputs."""
        if not self.unpadded:
            return inputs.collate
        assert isinstance(inputs, TextInputs), "only texts have padding"
        return inputs.pack

    def prepare(self, model: nn.Module) -> None:
        """Make the model accept these batches as well as padded ones."""
        if self.unpadded:
            accept_packed(model)

    def attention(
        self, model: nn.Module, device: torch.device, autocast: torch.dtype | None
    ) -> AbstractContextManager[None]:
        """Switch the model to the fastest attention kernel for these batches while it trains."""
        if self.unpadded and flash_fits(device, autocast):
            return flash_attention(model)
        return nullcontext()


@dataclass(frozen=True)
class TrainingSetup:
    """All that a trainer needs besides model and TrainingArguments. A variant is `dataclasses.replace(setup, ...)`."""

    data: TrainingData
    batching: BatchPlan
    loss: SummedLoss = CROSS_ENTROPY
    """Sum over the rows of a micro-batch."""
    update: UpdateRule = UpdateRule()
    averaging: WeightAveraging = field(default_factory=WeightAveraging)
    latest_epoch: LatestEpoch | None = None
    """Chooses the epoch in place of the best metric. None: the best metric does."""
    shortcuts: Shortcuts = Shortcuts()
    """Faster implementations of the model's layers."""
    hooks: tuple[Hook, ...] = ()
    """Techniques, in the order of their calls. A hook that changes micro-batches comes before SAM, which stores
    them."""
    callbacks: tuple[TrainerCallback, ...] = ()
    """Progress bar, log and early stopping."""
    elapsed: Callable[[], float] | None = None
    """Share of its time that the training has taken, with which the learning-rate schedule ends. None: with the
    steps."""
