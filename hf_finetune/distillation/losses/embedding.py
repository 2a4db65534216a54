"""Matching of the direction of embeddings, by the cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.distillation.losses.base import EmbeddingLoss, Pooling
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from torch import Tensor


@configclass
class Embedding(EmbeddingLoss):
    """Match the direction of each example's embedding, by the cosine; projected where the widths differ."""

    pooling: Pooling = "mean"
    """Embedding of an example. mean: the mean of its last hidden states; cls: that of its first token."""
    weight: Weight = 0.5
    """Weight of the loss; Ramp(start, end) changes it over the training."""

    def compare(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        """Compute 1 minus the cosine of each row's embeddings (B,): 0 for the same direction, 2 for opposite ones."""
        from torch.nn import functional as F

        from hf_finetune.training.losses.contrastive import at_least_float32

        return 1 - F.cosine_similarity(at_least_float32(student_BD), at_least_float32(teacher_BD), dim=-1)
