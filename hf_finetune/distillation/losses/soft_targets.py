"""Soft targets, the classic knowledge distillation (arXiv:1503.02531)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from hf_finetune.data.config import Activation
from hf_finetune.distillation.losses.base import LogitLoss
from hf_finetune.distillation.weight_schedules import Temperature, Weight, fixed
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import Tensor


@configclass
class SoftTargets(LogitLoss):
    """KL divergence from the teacher's probabilities, both softened by a temperature (arXiv:1503.02531): of classes, or
    of each tag, summed. Numbers: the squared difference, in units of the target's deviation, without a temperature."""

    temperature: Temperature = 2.0
    """Divides both logits: the higher, the more the teacher's less likely classes count. Ramp(start, end) changes it
    over the training."""
    weight: Weight = 0.5
    """Weight of the loss; Ramp(start, end) changes it over the training."""

    refuses: ClassVar[Mapping[Activation, str]] = {}

    def __call__(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Compute T^2 KL(teacher || student) of each row (B,), in float32.

        The gradient shrinks with 1 / T^2; the factor makes up for it.
        """
        return self.of_outputs(student_BC, teacher_BC, "softmax")

    def of_outputs(self, student_BC: Tensor, teacher_BC: Tensor, activation: Activation) -> Tensor:
        """Compute T^2 times the divergence of each row's predictions (B,), in float32."""
        from hf_finetune.training.losses.divergence import divergence

        return divergence(teacher_BC, student_BC, activation, fixed(self.temperature))
