"""Focal loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hf_finetune.data.config import TaskName
from hf_finetune.utils.config import NonNegative, configclass

if TYPE_CHECKING:
    import torch


@configclass
class Focal:
    """Cross-entropy times (1 - p)^gamma, p the label's probability: well-classified rows count less
    (arXiv:1708.02002)."""

    task: ClassVar[TaskName] = "single-label"
    gamma: NonNegative = 2.0
    """Exponent; 0 is cross-entropy."""

    def __call__(self, logits_BC: torch.Tensor, labels_B: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        """Return the loss of each row, see `RowLosses`: the sum of -q_c (1 - p_c)^gamma log p_c, q the target."""
        from torch.nn import functional as F

        from hf_finetune.training.losses.targets import one_minus_exp, target_distribution

        log_p_BC = F.log_softmax(logits_BC.float(), dim=-1)
        if labels_B.dim() == 1 and label_smoothing == 0:
            log_p_B = log_p_BC.gather(1, labels_B[:, None])[:, 0]
            return -(one_minus_exp(log_p_B) ** self.gamma) * log_p_B
        target_BC = target_distribution(labels_B, log_p_BC.shape[1], label_smoothing)
        return -(target_BC * one_minus_exp(log_p_BC) ** self.gamma * log_p_BC).sum(-1)
