"""PolyLoss: cross-entropy with a different weight of its first term."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge

from hf_finetune.data.config import TaskName
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch


@configclass
class PolyLoss:
    """Cross-entropy plus epsilon (1 - p), p the label's probability: Poly-1 of PolyLoss (arXiv:2204.12511)."""

    task: ClassVar[TaskName] = "single-label"
    epsilon: Annotated[float, Ge(-1)] = 1.0
    """Additional weight of the first term of cross-entropy's expansion in 1 - p; 2 in the paper on ImageNet. 0 is
    cross-entropy."""

    def __call__(self, logits_BC: torch.Tensor, labels_B: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        """Return the loss of each row, see `RowLosses`: the sum of q_c (epsilon (1 - p_c) - log p_c), q the target."""
        from torch.nn import functional as F

        from hf_finetune.training.losses.targets import one_minus_exp, target_distribution

        log_p_BC = F.log_softmax(logits_BC.float(), dim=-1)
        target_BC = target_distribution(labels_B, log_p_BC.shape[1], label_smoothing)
        return (target_BC * (self.epsilon * one_minus_exp(log_p_BC) - log_p_BC)).sum(-1)
