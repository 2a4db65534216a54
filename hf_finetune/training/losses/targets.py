"""Helpers of the losses: targets as distributions, and probabilities near 1.

Legend: B rows, C classes.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch.nn import functional as F

RowLosses: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""`(logits (B, C), labels (B,)) -> loss of each row (B,)`, in nats, computed in float32.

Labels are class indices, or soft: (B, C), float, the share of each class in a row. The loss is linear in soft labels,
whatever they sum to: the same mixture of the row's losses under each class."""


def target_distribution(labels_B: torch.Tensor, classes: int, label_smoothing: float) -> torch.Tensor:
    """Convert labels of either kind, see `RowLosses`, to smoothed shares of the classes, shape (B, C)."""
    target_BC = labels_B if labels_B.dim() == 2 else F.one_hot(labels_B, classes).float()
    return smoothed(target_BC, label_smoothing)


def smoothed(target_BC: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Spread a share of each row's sum evenly over the classes (arXiv:1512.00567). Linear in the target."""
    even_B1 = target_BC.sum(-1, keepdim=True) / target_BC.shape[1]
    return (1 - label_smoothing) * target_BC + label_smoothing * even_B1


def one_minus_exp(log_p: torch.Tensor) -> torch.Tensor:
    """Compute 1 - p, exactly for p near 1. Never 0, where the gradient of a power below 1 is not finite."""
    return (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
