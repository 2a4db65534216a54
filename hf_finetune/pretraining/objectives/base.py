"""What a network learns of rows without labels: cheap to import."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_finetune.data.inputs import EpochRows, Inputs
    from hf_finetune.training.hooks import Batch, Collate

IGNORED = -100
"""Label of a token that is not to be predicted."""
Predicts = Literal["words", "patches", "unseen patches", "views", "nothing"]
"""What is predicted from the encoder's states: of unseen patches the encoder knows not even the places; of views, which
are of one image."""


class Objective(Protocol):
    """What a recipe can choose to pretrain by."""

    @property
    def predicts(self) -> Predicts:
        """What the head predicts."""

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of the paper, for networks of BERT-base's size at steps of about 32 rows."""

    @property
    def compares_rows(self) -> bool:
        """Whether a row is told from the others of its forward pass."""

    def check_family(self, config: PreTrainedConfig) -> None:
        """Refuse a family that cannot be pretrained so.

        Raises:
            InputError: naming the family.
        """

    def task(self, network: PreTrainedModel, inputs: Inputs, rows: Dataset, example: dict[str, Any], seed: int) -> Task:
        """Put on the network what the objective needs, and return what it learns.

        Args:
            network: of `models.load_pretrainable`.
            rows: canonical rows that it learns from.
            example: the network's inputs of one of them.
            seed: of first weights, and of what is left out and changed.

        Raises:
            InputError: the network or the rows do not fit.
        """


class Task(ABC):
    """What a network learns of rows without labels.

    Args:
        objective: as it fits the rows.
        network: what trains, with what the objective has put on it.
        inputs: turns rows into the network's inputs.
    """

    def __init__(self, objective: Objective, network: PreTrainedModel, inputs: Inputs) -> None:
        self.objective, self.network, self.inputs = objective, network, inputs

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Compute the loss of a micro-batch, summed over its labels but those that are `IGNORED`: a scalar."""

    def rows(self, encoded: Dataset) -> EpochRows:
        """Return encoded rows as the loader reads them."""
        from hf_finetune.data.inputs import Rows

        return Rows(encoded, self.inputs.columns)

    @property
    def collate(self) -> Collate:
        """What makes a micro-batch of them."""
        return partial(collate_counted, self.inputs)

    def scoring(self, model: nn.Module) -> AbstractContextManager[None]:
        """Put the model into the mode in which held-out rows are scored."""
        from hf_finetune.evaluation.logits import evaluating

        return evaluating(model)


def collate_counted(inputs: Inputs, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Collate the network's inputs, and a label of 0 for each row, by which the trainer counts them."""
    import torch

    tensors = inputs.collate(batch)
    return {**tensors, "labels": torch.zeros(len(next(iter(tensors.values()))), dtype=torch.long)}
