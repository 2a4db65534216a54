"""Losses as pure functions. Each returns the sum over rows; the trainer divides by the rows of the whole step.

Legend: B rows, C classes.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def cross_entropy(logits_BC: torch.Tensor, labels_B: torch.Tensor, *, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy summed over rows, computed in float32.

    With smoothing s the target is (1 - s) on the label plus s / C on every class (arXiv:1512.00567).

    Args:
        logits_BC: shape (B, C).
        labels_B: shape (B,), class indices.

    Returns:
        Scalar, in nats.
    """
    return F.cross_entropy(logits_BC.float(), labels_B, reduction="sum", label_smoothing=label_smoothing)
