"""Two forward passes of each row with different dropout, whose predictions or features a technique compares.

Legend: B rows, C classes.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_finetune.training.hooks import Batch, Hook, SummedLoss


class TwoPasses(Hook, ABC):
    """Forwards each row twice, and adds to the mean of the two losses.

    Not for packed batches, which cannot be doubled.
    """

    passes = 2

    def on_inputs(self, model: PreTrainedModel, batch: Batch) -> Batch:
        """Double the batch: each copy of a row has its own dropout mask."""
        return {name: x if name == "labels" else torch.cat([x, x]) for name, x in batch.items()}

    def on_loss(self, loss: SummedLoss) -> SummedLoss:
        """Average the losses of both copies, and let the technique add its own."""

        def doubled(logits_2BC: torch.Tensor, targets: Any) -> torch.Tensor:
            one_BC, other_BC = logits_2BC.chunk(2)
            mean = 0.5 * (loss(one_BC, targets) + loss(other_BC, targets))
            return self.joined(mean, one_BC, other_BC, targets)

        return doubled

    @abstractmethod
    def joined(self, mean: torch.Tensor, one_BC: torch.Tensor, other_BC: torch.Tensor, targets: Any) -> torch.Tensor:
        """Return the loss of a micro-batch, summed over its rows.

        Args:
            mean: of the losses of both copies against the targets.
        """
