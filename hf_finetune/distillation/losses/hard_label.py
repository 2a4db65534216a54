"""The teacher's class as a label, DeiT's hard distillation (arXiv:2012.12877)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import Tensor


@configclass
class HardLabel:
    """The class that the teacher predicts, as if it were a label (DeiT, arXiv:2012.12877)."""

    weight: Weight = 0.5
    """How much it counts; Ramp(start, end) changes it over the training."""

    needs_all_logits: ClassVar[bool] = False

    def __call__(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Compute the cross-entropy of each row (B,) against the class that the teacher predicts, in float32."""
        from torch.nn import functional as F

        return F.cross_entropy(student_BC.float(), teacher_BC.argmax(-1), reduction="none")
