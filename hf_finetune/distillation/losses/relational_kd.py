"""Relational knowledge distillation (RKD, arXiv:1904.05068).

Legend: B rows, D width, R other rows, or pairs of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from hf_finetune.distillation.losses.base import EmbeddingLoss, Pooling
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.utils.config import NonNegative, configclass

if TYPE_CHECKING:
    from torch import Tensor


# Shorter differences, in units of the mean distance, keep a direction shorter than 1.
SHORTEST = 0.01


@configclass
class RelationalKD(EmbeddingLoss):
    """Match the geometry of a forward pass's embeddings: distances between two examples, and angles between three (RKD,
    arXiv:1904.05068).

    The loss depends on the examples of a forward pass: on its size, on accumulation and on the number of processes."""

    distance: NonNegative = 1.0
    """Weight of the distances within the loss."""
    angle: NonNegative = 2.0
    """Weight of the angles within the loss."""
    pooling: Pooling = "mean"
    """As in Embedding."""
    weight: Weight = 0.5
    """Weight of the loss; Ramp(start, end) changes it over the training."""

    compares_rows: ClassVar[bool] = True
    projects: ClassVar[bool] = False

    def compare(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        """Compute the Huber losses between the two networks' distances and angles of each row (B,)."""
        distance_B = _huber(distances, student_BD, teacher_BD, min_rows=2)
        return self.distance * distance_B + self.angle * _huber(angles, student_BD, teacher_BD, min_rows=3)


def distances(x_BD: Tensor) -> Tensor:
    """Return the distance from each row to the others (B, R), divided by their mean, so that no scale matters."""
    import torch

    is_other_BB = ~torch.eye(len(x_BD), dtype=torch.bool, device=x_BD.device)
    distance_BR = _differences(x_BD).norm(dim=-1)[is_other_BB].view(len(x_BD), -1)
    return distance_BR / distance_BR.mean().clamp_min(torch.finfo(distance_BR.dtype).tiny)


def angles(x_BD: Tensor) -> Tensor:
    """Return the cosines of the angles under which each row sees two others (B, R).

    Two rows that nearly coincide have a direction shorter than 1: the direction of rounding errors, at full length,
    would have gradients of any size.
    """
    import torch

    is_other_BB = ~torch.eye(len(x_BD), dtype=torch.bool, device=x_BD.device)
    # The row at the vertex, and the two others, all three different.
    is_triple_BBB = is_other_BB[:, :, None] & is_other_BB[:, None, :] & is_other_BB[None]
    direction_BBD = _differences(x_BD)
    distance_BB1 = direction_BBD.norm(dim=-1, keepdim=True)
    shortest = SHORTEST * distance_BB1.detach().mean()
    direction_BBD = direction_BBD / distance_BB1.clamp_min(shortest.clamp_min(torch.finfo(shortest.dtype).tiny))
    return (direction_BBD @ direction_BBD.transpose(1, 2))[is_triple_BBB].view(len(x_BD), -1)


def _huber(relation: Callable[[Tensor], Tensor], student_BD: Tensor, teacher_BD: Tensor, *, min_rows: int) -> Tensor:
    """Compute the Huber loss between a relation of the two networks' embeddings (B,), the mean over the other rows.

    With fewer than `min_rows` rows it is 0, with a gradient of 0: processes that share gradients need one for every
    weight in every step.
    """
    from torch.nn import functional as F

    from hf_finetune.training.losses.contrastive import at_least_float32

    if len(student_BD) < min_rows:
        return 0 * at_least_float32(student_BD).sum(-1)
    return F.smooth_l1_loss(relation(student_BD), relation(teacher_BD), reduction="none").mean(-1)


def _differences(x_BD: Tensor) -> Tensor:
    """Return every row minus every other one, shape (B, B, D)."""
    from hf_finetune.training.losses.contrastive import at_least_float32

    x_BD = at_least_float32(x_BD)
    return x_BD[None] - x_BD[:, None]
