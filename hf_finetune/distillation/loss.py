"""The loss of a student: against the labels, and against what its teacher predicts and computes on the way.

Legend: B rows of a forward pass, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from hf_finetune.distillation.config import DistillationKind, LogitKind
from hf_finetune.distillation.feature_loss import FeatureLoss
from hf_finetune.distillation.losses.base import Features
from hf_finetune.distillation.weight_schedules import Number, constant, ends_of, settled
from hf_finetune.training.losses.weighted import WeightedLoss


@dataclass(frozen=True)
class DistillationTargets:
    """The labels of a micro-batch's rows, and what the two networks have of them."""

    labels_B: torch.Tensor
    """Class indices; -1 of rows without a label."""
    teacher_BC: torch.Tensor
    """The teacher's logits."""
    progress: float = 0.0
    """Share of the training's steps that were taken before, 1 at the last one."""
    student_features: Features = field(default_factory=Features)
    """Those of the student's forward pass."""
    teacher_features: Features = field(default_factory=Features)
    """The teacher's."""

    def __len__(self) -> int:
        return len(self.labels_B)


@dataclass(frozen=True)
class DistillationLoss:
    """Sum over rows of the losses against the labels and against the teacher; stands in the place of a `WeightedLoss`.

    Class weights and the adjustment of logits are of the labels' part alone: the teacher predicts rare classes as it
    does. A DeiT has a head for each part: its class token learns the labels, its distillation token the teacher. Rows
    without a label have no part of the labels; where a kind needs one, the class that the teacher predicts stands in.
    """

    labels: WeightedLoss
    labels_weight: Number
    """How much the labels' part counts. 0: they are not looked at."""
    kinds: Sequence[DistillationKind]
    """The losses against the teacher; each has its own weight."""
    feature_losses: Mapping[int, FeatureLoss] = field(default_factory=dict)
    """What compares features, by the place of its kind."""

    def __call__(self, logits: torch.Tensor, targets: DistillationTargets) -> torch.Tensor:
        """Compute the sum, a scalar.

        Args:
            logits: the student's, shape (B, C); of two heads (B, 2, C), see `models.modules.head_logits`.
            targets: of the same rows.
        """
        own_BC, distilled_BC = logits.unbind(1) if logits.dim() == 3 else (logits, logits)
        has_label_B = targets.labels_B >= 0
        labels_B = torch.where(has_label_B, targets.labels_B, targets.teacher_BC.argmax(-1))
        losses = (
            (constant(kind.weight) * self._of_rows(place, kind, distilled_BC, labels_B, targets)).sum()
            for place, kind in enumerate(settled(kind, targets.progress) for kind in self.kinds)
        )
        total = sum(losses, start=torch.zeros((), device=logits.device))
        if any(ends_of(self.labels_weight)):
            # Also in a step in which it is 0: a head of its own would have no gradient, for which processes would wait.
            weight = constant(settled(self, targets.progress).labels_weight)
            total = total + weight * (self.labels.of_rows(own_BC, labels_B) * has_label_B).sum()
        return total

    def _of_rows(
        self,
        place: int,
        kind: DistillationKind,
        logits_BC: torch.Tensor,
        labels_B: torch.Tensor,
        targets: DistillationTargets,
    ) -> torch.Tensor:
        if isinstance(kind, LogitKind):
            return kind(logits_BC, targets.teacher_BC, labels_B)
        return self.feature_losses[place](targets.student_features, targets.teacher_features, targets.progress)
