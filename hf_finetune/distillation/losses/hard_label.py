"""Hard-label distillation (DeiT, arXiv:2012.12877)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.distillation.losses.base import LogitLoss
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import Tensor


@configclass
class HardLabel(LogitLoss):
    """Cross-entropy against the teacher's predicted class, as if it were a label (DeiT, arXiv:2012.12877)."""

    weight: Weight = 0.5
    """Weight of the loss; Ramp(start, end) changes it over the training."""

    def __call__(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Compute the cross-entropy of each row (B,), in float32."""
        from torch.nn import functional as F

        return F.cross_entropy(student_BC.float(), teacher_BC.argmax(-1), reduction="none")
