"""Asymmetric loss of tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hf_finetune.data.config import TaskName
from hf_finetune.utils.config import NonNegative, Probability, configclass

if TYPE_CHECKING:
    import torch


@configclass
class Asymmetric:
    """Binary cross-entropy in which easy absent tags count less, and the easiest not at all (multi-label;
    arXiv:2009.14119)."""

    task: ClassVar[TaskName] = "multi-label"
    gamma_positive: NonNegative = 0.0
    """Focusing exponent of the tags that a row has."""
    gamma_negative: NonNegative = 4.0
    """Focusing exponent of the tags that it lacks."""
    clip: Probability = 0.05
    """Probability by which absent tags are shifted down: below it they have no loss."""

    def __call__(
        self,
        logits_BC: torch.Tensor,
        labels_BC: torch.Tensor,
        label_smoothing: float = 0.0,
        weights_C: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the loss of each row, shape (B,), in nats; see `BinaryCrossEntropy`.

        It is y (1 - p)^g+ log p + (1 - y) q^g- log(1 - q), negative, with q = max(p - clip, 0).
        """
        import torch
        from torch.nn import functional as F

        logits_BC = logits_BC.float()
        targets_BC = labels_BC.float() * (1 - label_smoothing) + label_smoothing / 2
        shifted_BC = (torch.sigmoid(logits_BC) - self.clip).clamp_min(0)
        positive_BC = torch.sigmoid(-logits_BC) ** self.gamma_positive * F.logsigmoid(logits_BC)
        negative_BC = shifted_BC**self.gamma_negative * torch.log1p(-shifted_BC)
        if self.clip == 0:
            # Exact where the probability rounds to 1.
            negative_BC = shifted_BC**self.gamma_negative * F.logsigmoid(-logits_BC)
        if weights_C is not None:
            positive_BC = positive_BC * weights_C.to(logits_BC)
        return -(targets_BC * positive_BC + (1 - targets_BC) * negative_BC).sum(-1)
