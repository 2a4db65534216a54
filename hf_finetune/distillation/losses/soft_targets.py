"""Soft targets, the classic knowledge distillation (arXiv:1503.02531)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.distillation.losses.base import LogitLoss
from hf_finetune.distillation.weight_schedules import Temperature, Weight, fixed
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import Tensor


@configclass
class SoftTargets(LogitLoss):
    """KL divergence from the teacher's probabilities, both softened by a temperature (arXiv:1503.02531)."""

    temperature: Temperature = 2.0
    """Divides both logits: the higher, the more the teacher's less likely classes count. Ramp(start, end) changes it
    over the training."""
    weight: Weight = 0.5
    """Weight of the loss; Ramp(start, end) changes it over the training."""

    def __call__(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Compute T^2 KL(teacher || student) of each row (B,), in float32.

        The gradient shrinks with 1 / T^2; the factor makes up for it.
        """
        from torch.nn import functional as F

        from hf_finetune.distillation.losses.functional import kl_divergence

        temperature = fixed(self.temperature)
        log_q_BC = F.log_softmax(student_BC.float() / temperature, -1)
        log_p_BC = F.log_softmax(teacher_BC.float() / temperature, -1)
        return temperature**2 * kl_divergence(log_p_BC, log_q_BC)
