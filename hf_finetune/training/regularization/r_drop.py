"""R-Drop (arXiv:2106.14448): two passes of a row with different dropout should predict the same.

Legend: B rows, C classes.
"""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from hf_finetune.training.hooks import Batch, Hook, SummedLoss


class RDrop(Hook):
    """Forwards each row twice and adds the divergence of the two predictions to the mean of their losses.

    Not for packed batches, which cannot be doubled.

    Args:
        weight: weight of the divergence.
    """

    passes = 2

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def on_inputs(self, model: PreTrainedModel, batch: Batch) -> Batch:
        """Double the batch: each copy of a row has its own dropout mask."""
        return {name: x if name == "labels" else torch.cat([x, x]) for name, x in batch.items()}

    def on_loss(self, loss: SummedLoss) -> SummedLoss:
        """Average the losses of both copies, and add the divergence."""

        def doubled(logits_2BC: torch.Tensor, targets: Any) -> torch.Tensor:
            one_BC, other_BC = logits_2BC.chunk(2)
            mean = 0.5 * (loss(one_BC, targets) + loss(other_BC, targets))
            return mean + self.weight * symmetric_kl(one_BC, other_BC)

        return doubled


def symmetric_kl(one_BC: torch.Tensor, other_BC: torch.Tensor) -> torch.Tensor:
    """Compute half of KL(p || q) + KL(q || p), summed over rows, in float32.

    Args:
        one_BC: logits of p, shape (B, C).
        other_BC: logits of q, shape (B, C).

    Returns:
        Scalar, in nats.
    """
    log_p_BC, log_q_BC = F.log_softmax(one_BC.float(), -1), F.log_softmax(other_BC.float(), -1)
    return 0.5 * ((log_p_BC.exp() - log_q_BC.exp()) * (log_p_BC - log_q_BC)).sum()
