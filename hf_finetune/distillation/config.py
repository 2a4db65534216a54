"""What a recipe can ask of a student beside the labels: operations, cheap to import.

One of the answers is called as `(logits (B, C), teacher's logits (B, C), labels (B,)) -> loss of each row (B,)`, and has a
`weight` by which that is multiplied. Classes are those of the data, in their order, in both. What is asked of a student's
inside stands in `representation_choices`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_finetune.distillation.representation_config import RepresentationKind
from hf_finetune.distillation.weight_schedules import Number

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SoftTargets:
    """The teacher's probabilities of all classes, softened by a temperature (arXiv:1503.02531)."""

    temperature: Number = 2.0
    """Divides both logits: the higher, the more the classes count that the teacher does not answer. Ramp(start, end) changes it
    over the training."""
    weight: Number = 0.5
    """How much it counts; Ramp(start, end) changes it over the training."""

    def __call__(self, logits_BC: torch.Tensor, teacher_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """See `distillation_losses.soft_targets`."""
        from hf_finetune.distillation.losses import soft_targets

        return soft_targets(logits_BC, teacher_BC, temperature=self.temperature)


@dataclass(frozen=True)
class HardLabel:
    """The class that the teacher answers, as if it were a label (DeiT, arXiv:2012.12877)."""

    weight: Number = 0.5
    """How much it counts; Ramp(start, end) changes it over the training."""

    def __call__(self, logits_BC: torch.Tensor, teacher_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """See `distillation_losses.hard_label`."""
        from hf_finetune.distillation.losses import hard_label

        return hard_label(logits_BC, teacher_BC)


@dataclass(frozen=True)
class MatchLogits:
    """The teacher's logits themselves, by the squared difference (arXiv:1312.6184)."""

    weight: Number = 0.5
    """How much it counts; Ramp(start, end) changes it over the training."""

    def __call__(self, logits_BC: torch.Tensor, teacher_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """See `distillation_losses.match_logits`."""
        from hf_finetune.distillation.losses import match_logits

        return match_logits(logits_BC, teacher_BC)


@dataclass(frozen=True)
class DecoupledKD:
    """Soft targets in two parts: how likely the label is, and how likely each other class is among the others
    (arXiv:2203.08679). Of a row without a label, the class that the teacher answers."""

    temperature: Number = 4.0
    """As of SoftTargets."""
    alpha: float = 1.0
    """Weight of the first part."""
    beta: float = 8.0
    """Weight of the second part, which a sure teacher would otherwise hardly tell; it is 0 where there are two classes."""
    weight: Number = 0.5
    """How much both count; Ramp(start, end) changes it over the training."""

    def __call__(self, logits_BC: torch.Tensor, teacher_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """See `distillation_losses.decoupled_kd`."""
        from hf_finetune.distillation.losses import decoupled_kd

        return decoupled_kd(
            logits_BC, teacher_BC, labels_B, alpha=self.alpha, beta=self.beta, temperature=self.temperature
        )


AnswerKind = SoftTargets | HardLabel | MatchLogits | DecoupledKD
DistillationKind = AnswerKind | RepresentationKind
