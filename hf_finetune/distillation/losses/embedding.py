"""Matching of the direction of embeddings, by the cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hf_finetune.distillation.losses.base import Pooling
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import Tensor


@configclass
class Embedding:
    """The direction of a row's embedding, by the cosine; projected where the widths differ."""

    pooling: Pooling = "mean"
    """What stands for a row: the mean of its last states, or that of the first token."""
    weight: Weight = 0.5
    """How much it counts; Ramp(start, end) changes it over the training."""

    compares_rows: ClassVar[bool] = False
    compares_features: ClassVar[bool] = True

    def __call__(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        """Compute 1 minus the cosine of each row's embeddings (B,): 0 where they point the same way, 2 at most."""
        from torch.nn import functional as F

        from hf_finetune.training.losses.contrastive import at_least_float32

        return 1 - F.cosine_similarity(at_least_float32(student_BD), at_least_float32(teacher_BD), dim=-1)
