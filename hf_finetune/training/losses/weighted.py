"""The loss of a classifier: a sum over rows, which the trainer divides by the number of rows of the whole step.

A row's loss depends on that row alone; weights and priors come from the data set, not from the batch. So the mean over
a step does not depend on its micro-batches or the number of processes.

Legend: B rows, C classes.
"""

from dataclasses import dataclass
from typing import Any

import torch

from hf_finetune.models.modules import head_logits
from hf_finetune.training.hooks import SummedLoss
from hf_finetune.training.losses.cross_entropy import CrossEntropy
from hf_finetune.training.losses.targets import RowLosses


@dataclass(frozen=True)
class WeightedLoss:
    """Sum over rows of the row's loss times its class weight, with logits adjusted by the class shares.

    Weights and shares are constants of the data set. A step's loss is this sum over its number of rows, not over its
    total weight: otherwise a micro-batch of rare rows would count as much as one of common rows.
    """

    rows: RowLosses = CrossEntropy()
    """Loss of each row."""
    weights_C: torch.Tensor | None = None
    """Weight of each class, shape (C,), with a mean of 1 over the training rows. None: all 1."""
    shift_C: torch.Tensor | None = None
    """Term added to the logits, shape (C,): tau times the logarithm of each class's share (arXiv:2007.07314). None:
    0."""

    def __call__(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Return the sum of `of_rows`, a scalar in nats."""
        return self.of_rows(logits_BC, labels_B).sum()

    def of_rows(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Return the loss of each row, shape (B,), in nats.

        Args:
            logits_BC: shape (B, C).
            labels_B: shape (B,), class indices; or soft, see `RowLosses`.
        """
        if self.shift_C is not None:
            logits_BC = logits_BC.float() + self.shift_C.to(logits_BC.device)
        weights_C = None if self.weights_C is None else self.weights_C.to(logits_BC.device)
        if labels_B.dim() == 2:
            # The loss is linear in soft labels, so each class takes its own weight.
            return self.rows(logits_BC, labels_B if weights_C is None else labels_B * weights_C)
        losses_B = self.rows(logits_BC, labels_B)
        return losses_B if weights_C is None else losses_B * weights_C[labels_B]


CROSS_ENTROPY = WeightedLoss()


def mean_over_step(
    outputs: Any, targets: Any, num_items_in_batch: torch.Tensor | int | None = None, *, loss: SummedLoss
) -> torch.Tensor:
    """Compute a micro-batch's share of the mean loss over the whole step (all processes, all accumulation).

    Args:
        outputs: the model's outputs, see `models.modules.head_logits`.
        targets: labels, see `RowLosses`, or other targets of `loss`.
        num_items_in_batch: rows of the whole step. None: those of this micro-batch.

    Returns:
        Scalar, in nats.
    """
    total = loss(head_logits(outputs), targets)
    return total / (len(targets) if num_items_in_batch is None else num_items_in_batch)
