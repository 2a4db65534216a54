"""R-Drop (arXiv:2106.14448): two passes of a row with different dropout should predict the same.

Legend: B rows, C classes.
"""

from typing import Any

import torch
from transformers import PreTrainedModel

from hf_finetune.data.config import Activation
from hf_finetune.training.hooks import Batch, Hook, SummedLoss
from hf_finetune.training.losses.divergence import symmetric_divergence


class RDrop(Hook):
    """Forwards each row twice and adds the divergence of the two predictions to the mean of their losses.

    Not for packed batches, which cannot be doubled.

    Args:
        weight: weight of the divergence.
        activation: see `symmetric_divergence`.
    """

    passes = 2

    def __init__(self, weight: float, activation: Activation = "softmax") -> None:
        self.weight, self.activation = weight, activation

    def on_inputs(self, model: PreTrainedModel, batch: Batch) -> Batch:
        """Double the batch: each copy of a row has its own dropout mask."""
        return {name: x if name == "labels" else torch.cat([x, x]) for name, x in batch.items()}

    def on_loss(self, loss: SummedLoss) -> SummedLoss:
        """Average the losses of both copies, and add the divergence."""

        def doubled(logits_2BC: torch.Tensor, targets: Any) -> torch.Tensor:
            one_BC, other_BC = logits_2BC.chunk(2)
            mean = 0.5 * (loss(one_BC, targets) + loss(other_BC, targets))
            return mean + self.weight * symmetric_divergence(one_BC, other_BC, self.activation)

        return doubled
