"""Decoupled knowledge distillation (arXiv:2203.08679).

Legend: B rows, C classes, O = C - 1 other classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from hf_finetune.data.config import Activation
from hf_finetune.distillation.losses.base import LogitLoss
from hf_finetune.distillation.weight_schedules import Temperature, Weight, fixed
from hf_finetune.utils.config import NonNegative, configclass

if TYPE_CHECKING:
    from torch import Tensor


@configclass
class DecoupledKD(LogitLoss):
    """Soft targets in two parts: the probability of the label, and the distribution over the other classes
    (arXiv:2203.08679). An example without a label takes the teacher's predicted class."""

    temperature: Temperature = 4.0
    """As in SoftTargets."""
    alpha: NonNegative = 1.0
    """Weight of the first part."""
    beta: NonNegative = 8.0
    """Weight of the second part, which soft targets nearly suppress where the teacher is confident. With two classes
    this part is 0."""
    weight: Weight = 0.5
    """Weight of both parts together; Ramp(start, end) changes it over the training."""

    refuses: ClassVar[Mapping[Activation, str]] = {
        "sigmoid": "it sets one label of a row apart from the other classes",
        "identity": "it sets one label of a row apart from the other classes",
    }

    def __call__(self, student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Compute T^2 (alpha target + beta others) of each row (B,), in float32.

        target is KL(teacher || student) over "the label or another class", others the same over the other classes
        alone. Soft targets are target + (1 - p) others, p the teacher's probability of the label: the more confident
        the teacher, the less they say about the others.
        """
        from hf_finetune.distillation.losses.functional import kl_divergence

        temperature = fixed(self.temperature)
        target_B2, others_BO = _parts(student_BC.float() / temperature, labels_B)
        teacher_target_B2, teacher_others_BO = _parts(teacher_BC.float() / temperature, labels_B)
        target_B = kl_divergence(teacher_target_B2, target_B2)
        return temperature**2 * (self.alpha * target_B + self.beta * kl_divergence(teacher_others_BO, others_BO))


def _parts(logits_BC: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities: of the label and of any other class (B, 2), and of each among the others (B, O)."""
    import torch
    from torch.nn import functional as F

    is_other_BC = F.one_hot(labels_B, logits_BC.shape[1]) == 0
    others_BO = logits_BC[is_other_BC].view(len(logits_BC), -1)
    label_B1 = logits_BC.gather(1, labels_B[:, None])
    pair_B2 = torch.cat([label_B1, others_BO.logsumexp(-1, keepdim=True)], -1)
    return F.log_softmax(pair_B2, -1), F.log_softmax(others_BO, -1)
