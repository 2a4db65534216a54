"""The contract of pretraining objectives: cheap to import.

To add an objective, subclass `Objective` and `Task` in a module beside this one, and name the objective in its union in
`pretraining.config`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_finetune.data.inputs import EpochRows, Inputs
    from hf_finetune.training.hooks import Batch, Collate

IGNORED = -100
"""Label of a token without a loss."""
Predicts = Literal["words", "patches", "unseen patches", "views", "nothing"]
"""Output of the network. words, patches: by a head of transformers. unseen patches: by a decoder. views: of one image,
by a projection in place of a classifier's head. nothing: only the hidden states are used."""


class Objective(ABC):
    """A pretraining objective of a recipe."""

    predicts: ClassVar[Predicts]
    learning_rate: ClassVar[float]
    """Peak learning rate of the paper, for networks of BERT-base's size and steps of about 32 rows."""
    compares_rows: ClassVar[bool] = False
    """Whether the loss of a row depends on the other rows of its forward pass."""

    def check_family(self, config: PreTrainedConfig) -> None:  # noqa: B027 (by default every family has it)
        """Refuse a family without this objective. By default no family is refused.

        Raises:
            InputError: naming the family.
        """

    @abstractmethod
    def task(self, network: PreTrainedModel, inputs: Inputs, rows: Dataset, example: dict[str, Any], seed: int) -> Task:
        """Add to the network what the objective needs, and return the task that trains it.

        Args:
            network: from `models.load_pretrainable`.
            rows: canonical rows to pretrain on.
            example: the network's inputs of one row.
            seed: seed of initial weights, masks and views.

        Raises:
            InputError: the network or the rows do not fit.
        """


class Task(ABC):
    """The task that a network learns from unlabeled rows.

    Args:
        objective: fitted to the rows.
        network: trains, with everything that the objective has added.
        inputs: encodes rows for the network.
        seed: seed of masks and views.
    """

    def __init__(self, objective: Objective, network: PreTrainedModel, inputs: Inputs, seed: int) -> None:
        self.objective, self.network, self.inputs, self.seed = objective, network, inputs, seed

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Compute the loss of a micro-batch, the sum over its labels other than `IGNORED`: a scalar."""

    def dataset(self, encoded: Dataset) -> tuple[EpochRows, Collate]:
        """Return the rows that a data loader reads, and the function that collates them into a micro-batch."""
        from hf_finetune.data.inputs import Rows

        return Rows(encoded, self.inputs.columns), partial(collate_counted, self.inputs)

    def scoring(self, model: nn.Module) -> AbstractContextManager[None]:
        """Put the model into the mode in which held-out rows are scored."""
        from hf_finetune.evaluation.logits import evaluating

        return evaluating(model)


def collate_counted(inputs: Inputs, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Collate the network's inputs, with a label of 0 for each row, by which the trainer counts rows."""
    import torch

    tensors = inputs.collate(batch)
    return {**tensors, "labels": torch.zeros(len(next(iter(tensors.values()))), dtype=torch.long)}
