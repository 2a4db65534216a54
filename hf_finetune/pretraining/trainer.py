"""The trainer of further pretraining: rows have no labels, and the loss of held-out rows chooses the epoch."""

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import TrainingArguments

from hf_finetune.data.batching import StepBatches
from hf_finetune.data.inputs import EpochRows
from hf_finetune.evaluation.logits import autocast_to, to_device
from hf_finetune.models.contexts import seeded
from hf_finetune.pretraining.objectives.base import IGNORED, Task
from hf_finetune.training.flops import Utilization
from hf_finetune.training.hooks import Batch, Collate
from hf_finetune.training.setup import TrainingSetup
from hf_finetune.training.trainer import ClassifierTrainer

HELD_OUT = "held_out_loss"
"""Name of the metric that chooses the epoch."""
EPOCH_OF_HELD_OUT = 2**32 - 1
"""Epoch of the held-out rows, which training never reaches: each evaluation masks and augments them in the same way."""


class PretrainingTrainer(ClassifierTrainer):
    """Trains an encoder and the modules of its objective on rows without labels.

    Args:
        args, setup: see `ClassifierTrainer`; the metric of `args` is `HELD_OUT`.
        task: network, rows and loss of the objective.
    """

    def __init__(self, args: TrainingArguments, setup: TrainingSetup, task: Task) -> None:
        super().__init__(task.network, args, setup)
        self.task = task

    def _training_rows(self, batches: StepBatches) -> tuple[EpochRows, Collate]:
        return self.task.dataset(self.train_dataset)

    def batch_loss(self, model: nn.Module, batch: Batch, rows_in_step: torch.Tensor | int | None) -> torch.Tensor:
        """Compute a micro-batch's share of the step's mean loss; gradients are then averaged over processes."""
        assert rows_in_step is not None, "counted by the Trainer"
        return self.task.loss(model, batch) * self.args.world_size / rows_in_step

    def _metrics(self, rows: Dataset, prefix: str) -> dict[str, float]:
        """Return the mean loss of held-out rows; all processes share them. Training's random numbers do not change."""
        (dataset, collate), device = self.task.dataset(rows), self.args.device
        dataset.set_epoch(EPOCH_OF_HELD_OUT)
        lengths = self.inputs.lengths(rows)
        order = np.arange(len(rows)) if lengths is None else np.argsort(lengths, kind="stable")
        parts = np.array_split(order, -(-len(order) // self.args.per_device_train_batch_size))
        total = torch.zeros(2, dtype=torch.float64)
        with (
            torch.no_grad(),
            seeded(self.args.seed),
            self.task.scoring(self.task.network),
            autocast_to(self._autocast, device),
        ):
            for part in parts[self.args.process_index :: self.args.world_size]:
                batch = to_device(collate(dataset.__getitems__(part.tolist())), device)
                items = int((batch["labels"] != IGNORED).sum())
                total += torch.tensor([float(self.task.loss(self.task.network, batch)), items], dtype=torch.float64)
        if self.args.world_size > 1:
            total = total.to(device)
            torch.distributed.all_reduce(total)
        return {f"{prefix}_{HELD_OUT}": float(total[0] / total[1])}

    def _measure_utilization(self) -> Utilization | None:
        """Return None: the modules of the objective are no part of the classifier whose operations are counted."""
        return None
