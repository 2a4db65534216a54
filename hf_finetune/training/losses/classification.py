"""Losses as pure functions. The trainer sums them over rows and divides by the rows of the whole step.

A row's loss depends on that row alone, and weights and priors come from the data set, never from the batch. So the mean
over the rows of a step is the same number however the step is cut into micro-batches or shared by processes.

Legend: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from hf_finetune.models.modules import head_logits
from hf_finetune.training.hooks import SummedLoss

RowLosses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""`(logits (B, C), labels (B,)) -> loss of each row (B,)`, in nats.

Labels are class indices, or soft: (B, C), float, how much of each class is in a row. Then the loss is the same mixture of
what the row costs under each class, and so linear in the labels, whatever they sum to.
"""


def cross_entropy(logits_BC: torch.Tensor, labels_B: torch.Tensor, *, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of each row, computed in float32.

    With smoothing s the target is (1 - s) on the label plus s / C on every class (arXiv:1512.00567).

    Args:
        logits_BC: shape (B, C).
        labels_B: shape (B,), class indices; or soft, see `RowLosses`.

    Returns:
        Shape (B,), in nats.
    """
    if labels_B.dim() == 2:
        return -(_smoothed(labels_B, label_smoothing) * F.log_softmax(logits_BC.float(), dim=-1)).sum(-1)
    return F.cross_entropy(logits_BC.float(), labels_B, reduction="none", label_smoothing=label_smoothing)


def focal(
    logits_BC: torch.Tensor, labels_B: torch.Tensor, *, gamma: float, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Focal loss of each row: -(1 - p)^gamma log p, p the label's probability (arXiv:1708.02002), in float32.

    With smoothing every class c adds -q_c (1 - p_c)^gamma log p_c, q the target of `cross_entropy`. Gamma 0 is
    cross-entropy.

    Args:
        logits_BC: shape (B, C).
        labels_B: shape (B,), class indices; or soft, see `RowLosses`.
        gamma: 0 or more; the higher, the less a row counts that is right already.

    Returns:
        Shape (B,), in nats.
    """
    log_p_BC = F.log_softmax(logits_BC.float(), dim=-1)
    if labels_B.dim() == 1 and label_smoothing == 0:
        log_p_B = log_p_BC.gather(1, labels_B[:, None])[:, 0]
        return -(_one_minus_exp(log_p_B) ** gamma) * log_p_B
    target_BC = labels_B if labels_B.dim() == 2 else F.one_hot(labels_B, log_p_BC.shape[1]).float()
    return -(_smoothed(target_BC, label_smoothing) * _one_minus_exp(log_p_BC) ** gamma * log_p_BC).sum(-1)


def _smoothed(target_BC: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """A share of each row's sum spread evenly over the classes; linear in the target."""
    even_B1 = target_BC.sum(-1, keepdim=True) / target_BC.shape[1]
    return (1 - label_smoothing) * target_BC + label_smoothing * even_B1


def _one_minus_exp(log_p: torch.Tensor) -> torch.Tensor:
    """1 - p, exact for p close to 1, and nowhere 0: there the gradient of a power below 1 is not a number."""
    return (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)


@dataclass(frozen=True)
class WeightedLoss:
    """Sum over rows of a row's loss times the weight of its class, the logits adjusted to the classes' shares first.

    Weights and shares are constants of the data set. A step's loss is the sum divided by its number of rows, not by the
    weights that happen to be in it: else a micro-batch of rare rows would count as much as one of common rows.
    """

    rows: RowLosses = cross_entropy
    """Loss of each row."""
    weights_C: torch.Tensor | None = None
    """Weight of each class, shape (C,); their mean over the training rows is 1. None: all 1."""
    shift_C: torch.Tensor | None = None
    """Added to the logits, shape (C,): tau times the logarithm of each class's share (arXiv:2007.07314). None: nothing."""

    def __call__(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Scalar, in nats: the sum of `of_rows`."""
        return self.of_rows(logits_BC, labels_B).sum()

    def of_rows(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Shape (B,), in nats.

        Args:
            logits_BC: shape (B, C).
            labels_B: shape (B,), class indices; or soft, see `RowLosses`.
        """
        if self.shift_C is not None:
            logits_BC = logits_BC.float() + self.shift_C.to(logits_BC.device)
        weights_C = None if self.weights_C is None else self.weights_C.to(logits_BC.device)
        if labels_B.dim() == 2:
            # Linear: each class of the mixture counts with its own weight.
            return self.rows(logits_BC, labels_B if weights_C is None else labels_B * weights_C)
        losses_B = self.rows(logits_BC, labels_B)
        return losses_B if weights_C is None else losses_B * weights_C[labels_B]


CROSS_ENTROPY = WeightedLoss()


def mean_over_step(
    outputs: Any, targets: Any, num_items_in_batch: torch.Tensor | int | None = None, *, loss: SummedLoss
) -> torch.Tensor:
    """This micro-batch's share of the mean loss over the rows of the whole step (all processes, all accumulation).

    Args:
        outputs: of the model, see `heads.head_logits`.
        targets: labels, shape (B,), class indices; or soft, see `RowLosses`; or what else `loss` takes.
        num_items_in_batch: rows of the whole step. None: those of this micro-batch.

    Returns:
        Scalar, in nats.
    """
    total = loss(head_logits(outputs), targets)
    return total / (len(targets) if num_items_in_batch is None else num_items_in_batch)
