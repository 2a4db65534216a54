"""Relational knowledge distillation (RKD, arXiv:1904.05068).

Legend: B rows, D width, O other rows or pairs of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from hf_finetune.distillation.losses.base import Pooling
from hf_finetune.distillation.weight_schedules import Weight
from hf_finetune.utils.config import NonNegative, configclass

if TYPE_CHECKING:
    from torch import Tensor


# Two rows nearer than so many times a network's mean distance have a direction shorter than 1.
NEAREST = 0.01


@configclass
class RelationalKD:
    """How the embeddings of a forward pass lie to one another: distances, and angles between three of them (RKD,
    arXiv:1904.05068).

    A row's part depends on the rows beside it: on the size of a forward pass, on accumulation and processes."""

    distance: NonNegative = 1.0
    """Weight of the distances within it."""
    angle: NonNegative = 2.0
    """Weight of the angles within it."""
    pooling: Pooling = "mean"
    """See Embedding."""
    weight: Weight = 0.5
    """How much it counts; Ramp(start, end) changes it over the training."""

    compares_rows: ClassVar[bool] = True
    compares_features: ClassVar[bool] = False

    def __call__(self, student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        """Compute the Huber losses between the two networks' distances and angles of each row (B,)."""
        distance_B = _huber(distances, student_BD, teacher_BD, least=2)
        return self.distance * distance_B + self.angle * _huber(angles, student_BD, teacher_BD, least=3)


def distances(x_BD: Tensor) -> Tensor:
    """Return the distance from each row to the others (B, O), divided by their mean, so that no scale matters."""
    import torch

    is_other_BB = ~torch.eye(len(x_BD), dtype=torch.bool, device=x_BD.device)
    distance_BO = _differences(x_BD).norm(dim=-1)[is_other_BB].view(len(x_BD), -1)
    return distance_BO / distance_BO.mean().clamp_min(torch.finfo(distance_BO.dtype).tiny)


def angles(x_BD: Tensor) -> Tensor:
    """Return the cosines of the angles under which each row sees two others (B, O).

    Two rows that a network hardly tells apart have a direction shorter than 1: that of rounding, at full length, would
    send gradients of any size back.
    """
    import torch

    is_other_BB = ~torch.eye(len(x_BD), dtype=torch.bool, device=x_BD.device)
    # The row in the corner, and the two that it sees, all three different.
    is_triple_BBB = is_other_BB[:, :, None] & is_other_BB[:, None, :] & is_other_BB[None]
    direction_BBD = _differences(x_BD)
    distance_BB1 = direction_BBD.norm(dim=-1, keepdim=True)
    nearest = NEAREST * distance_BB1.detach().mean()
    direction_BBD = direction_BBD / distance_BB1.clamp_min(nearest.clamp_min(torch.finfo(nearest.dtype).tiny))
    return (direction_BBD @ direction_BBD.transpose(1, 2))[is_triple_BBB].view(len(x_BD), -1)


def _huber(relation: Callable[[Tensor], Tensor], student_BD: Tensor, teacher_BD: Tensor, *, least: int) -> Tensor:
    """Huber loss between a relation of the two networks' embeddings (B,): the mean over the other rows.

    Of fewer than `least` rows 0, with a gradient of 0: every weight takes part in every step, as processes that share
    gradients need it.
    """
    from torch.nn import functional as F

    from hf_finetune.training.losses.contrastive import at_least_float32

    if len(student_BD) < least:
        return 0 * at_least_float32(student_BD).sum(-1)
    return F.smooth_l1_loss(relation(student_BD), relation(teacher_BD), reduction="none").mean(-1)


def _differences(x_BD: Tensor) -> Tensor:
    """Return every row minus every other one, shape (B, B, D)."""
    from hf_finetune.training.losses.contrastive import at_least_float32

    x_BD = at_least_float32(x_BD)
    return x_BD[None] - x_BD[:, None]
