"""Soft targets, the classic knowledge distillation (arXiv:1503.02531)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hf_finetune.distillation.weight_schedules import Temperature, Weight, constant
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import Tensor


@configclass
class SoftTargets:
    """The teacher's probabilities of all classes, softened by a temperature (arXiv:1503.02531)."""

    temperature: Temperature = 2.0
    """Divides both logits: the higher, the more the classes count that the teacher does not answer. Ramp(start, end)
    changes it over the training."""
    weight: Weight = 0.5
    """How much it counts; Ramp(start, end) changes it over the training."""

    needs_all_logits: ClassVar[bool] = False

    def __call__(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Compute T^2 KL(teacher || student) of each row (B,), both softened by the temperature T, in float32.

        The gradient shrinks with 1 / T^2; the factor makes up for it.
        """
        from torch.nn import functional as F

        from hf_finetune.distillation.losses.functional import kl_divergence

        temperature = constant(self.temperature)
        log_q_BC = F.log_softmax(student_BC.float() / temperature, -1)
        log_p_BC = F.log_softmax(teacher_BC.float() / temperature, -1)
        return temperature**2 * kl_divergence(log_p_BC, log_q_BC)
