"""Contrastive distillation of embeddings (InfoNCE, as in CRD, arXiv:1910.10699)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hf_finetune.distillation.losses.base import Pooling
from hf_finetune.distillation.weight_schedules import Temperature, Weight, constant
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import Tensor


@configclass
class Contrastive:
    """Which of a forward pass's rows an embedding belongs to: the student's is to be nearest to the teacher's of the
    same row (InfoNCE, as in CRD, arXiv:1910.10699); projected where the widths differ.

    A row's part depends on the rows beside it: on the size of a forward pass, on accumulation and processes."""

    temperature: Temperature = 0.1
    """Divides the cosines: the lower, the more the nearest wrong rows count. Ramp(start, end) changes it over the
    training."""
    pooling: Pooling = "mean"
    """See Embedding."""
    weight: Weight = 0.1
    """How much it counts; Ramp(start, end) changes it over the training."""

    compares_rows: ClassVar[bool] = True
    compares_features: ClassVar[bool] = True

    def __call__(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        """Compute the cross-entropy of finding each row's embedding (B,) among the teacher's of the forward pass."""
        from hf_finetune.training.losses.contrastive import contrastive

        return contrastive(student_BD, teacher_BD, temperature=constant(self.temperature))
