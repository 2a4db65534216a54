"""Hard-label distillation (DeiT, arXiv:2012.12877)."""

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
class HardLabel(LogitLoss):
    """Cross-entropy against the teacher's predicted class, as if it were a label (DeiT, arXiv:2012.12877). Tags: binary
    cross-entropy against those of a probability above 0.5."""

    weight: Weight = 0.5
    """Weight of the loss; Ramp(start, end) changes it over the training."""

    refuses: ClassVar[Mapping[Activation, str]] = {
        "identity": "the teacher's number is what SoftTargets compares already"
    }

    def __call__(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Compute the cross-entropy of each row (B,), in float32."""
        from torch.nn import functional as F

        return F.cross_entropy(student_BC.float(), teacher_BC.argmax(-1), reduction="none")

    def of_outputs(self, student_BC: Tensor, teacher_BC: Tensor, activation: Activation) -> Tensor:
        """Compute the binary cross-entropy of each row (B,), the sum over its tags, in float32."""
        from torch.nn import functional as F

        tags_BC = (teacher_BC > 0).float()
        return F.binary_cross_entropy_with_logits(student_BC.float(), tags_BC, reduction="none").sum(-1)
