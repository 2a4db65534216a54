"""Regression on the teacher's logits (arXiv:1312.6184)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from hf_finetune.data.config import Activation
from hf_finetune.distillation.losses.base import LogitLoss
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import Tensor


@configclass
class MatchLogits(LogitLoss):
    """Squared difference from the teacher's logits (arXiv:1312.6184)."""

    weight: Weight = 0.5
    """Weight of the loss; Ramp(start, end) changes it over the training."""

    needs_all_logits: ClassVar[bool] = True
    refuses: ClassVar[Mapping[Activation, str]] = {}

    def __call__(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Compute the squared difference of each row's logits (B,), the mean over the classes, in float32."""
        return self.of_outputs(student_BC, teacher_BC, "softmax")

    def of_outputs(self, student_BC: Tensor, teacher_BC: Tensor, activation: Activation) -> Tensor:
        """Compute the squared difference of each row's logits or numbers (B,), in float32."""
        return (student_BC.float() - teacher_BC.float()).square().mean(-1)
