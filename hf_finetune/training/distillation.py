"""Training a student: as any classifier, with a teacher's logits beside the labels of its rows.

Legend: N training rows, B rows of a forward pass, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hf_finetune.training.distillation_choices import DistillationKind
from hf_finetune.training.losses import WeightedLoss


@dataclass(frozen=True)
class Taught:
    """The labels of a micro-batch's rows, and what the teacher says of them."""

    labels_B: torch.Tensor
    """Class indices."""
    teacher_BC: torch.Tensor
    """The teacher's logits."""

    def __len__(self) -> int:
        return len(self.labels_B)


@dataclass(frozen=True)
class DistillationLoss:
    """Sum over rows of what they cost against the labels and against the teacher; stands in the place of a `WeightedLoss`.

    Class weights and the adjustment of logits are of the labels' part alone: the teacher answers rare classes as it does.
    """

    labels: WeightedLoss
    labels_weight: float
    """How much the labels' part counts. 0: they are not looked at."""
    kinds: Sequence[DistillationKind]
    """What is asked of the student beside the labels; each has its own weight."""

    def __call__(self, logits_BC: torch.Tensor, taught: Taught) -> torch.Tensor:
        """Scalar.

        Args:
            logits_BC: the student's, shape (B, C).
            taught: of the same rows.
        """
        total = sum((kind.weight * kind(logits_BC, taught.teacher_BC, taught.labels_B)).sum() for kind in self.kinds)
        if self.labels_weight:
            total = total + self.labels_weight * self.labels(logits_BC, taught.labels_B)
        return total
