"""Contrastive distillation of embeddings (InfoNCE, as in CRD, arXiv:1910.10699)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hf_finetune.distillation.losses.base import EmbeddingLoss, Pooling
from hf_finetune.distillation.weight_schedules import Temperature, Weight, fixed
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import Tensor


@configclass
class Contrastive(EmbeddingLoss):
    """Pull the student's embedding of an example towards the teacher's embedding of the same example, and away from
    those of the other examples of a forward pass (InfoNCE, as in CRD, arXiv:1910.10699); projected where the widths
    differ.

    The loss depends on the examples of a forward pass: on its size, on accumulation and on the number of processes."""

    temperature: Temperature = 0.1
    """Divides the cosines: the lower, the more the nearest wrong examples count. Ramp(start, end) changes it over the
    training."""
    pooling: Pooling = "mean"
    """As in Embedding."""
    weight: Weight = 0.1
    """Weight of the loss; Ramp(start, end) changes it over the training."""

    compares_rows: ClassVar[bool] = True

    def compare(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        """Compute the cross-entropy of finding each row (B,) among the teacher's embeddings."""
        from hf_finetune.training.losses.contrastive import contrastive

        return contrastive(student_BD, teacher_BD, temperature=fixed(self.temperature))
