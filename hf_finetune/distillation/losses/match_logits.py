"""Regression on the teacher's logits (arXiv:1312.6184)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import Tensor


@configclass
class MatchLogits:
    """The teacher's logits themselves, by the squared difference (arXiv:1312.6184)."""

    weight: Weight = 0.5
    """How much it counts; Ramp(start, end) changes it over the training."""

    needs_all_logits: ClassVar[bool] = True

    def __call__(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Compute the squared difference of the logits of each row (B,), the mean over the classes, in float32."""
        return (student_BC.float() - teacher_BC.float()).square().mean(-1)
