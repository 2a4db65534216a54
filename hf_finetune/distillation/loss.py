"""The loss of a student: against the labels, and against its teacher's logits and features.

Legend: B rows of a forward pass, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from hf_finetune.data.config import Activation
from hf_finetune.distillation.config import DistillationKind, FeatureKind
from hf_finetune.distillation.losses.base import FeaturePair, Features, LogitLoss, Networks
from hf_finetune.distillation.weight_schedules import Number, at_progress, ends_of, fixed
from hf_finetune.training.losses.weighted import WeightedLoss


class FeatureLossModule(nn.Module):
    """A feature loss with its weights: projections onto the teacher's width, and the scores of a learned layer map.

    They train with the student, by its optimizer. Checkpoints hold them, the saved model does not.

    Args:
        kind: the loss, its layers not to be searched any more.
        networks: the student and its teacher.
        generator: draws the initial weights.
    """

    def __init__(self, kind: FeatureKind, networks: Networks, generator: torch.Generator) -> None:
        super().__init__()
        self.kind, self.networks = kind, networks
        # Items keep their order: a dict would be sorted by name, and the optimizer sum up in another order.
        self.weights = nn.ParameterDict(kind.initial_weights(networks, generator).items())

    def forward(self, student: Features, teacher: Features, progress: float) -> torch.Tensor:
        """Compute the loss of each row (B,), without its weight in the sum.

        Args:
            progress: share of the optimizer steps taken so far.
        """
        return at_progress(self.kind, progress)(
            FeaturePair(student, teacher, self.networks, dict(self.weights.items()))
        )


@dataclass(frozen=True)
class DistillationTargets:
    """The labels of a micro-batch, and the features of its two networks."""

    labels_B: torch.Tensor
    """Class indices, or tags or numbers (B, C); -1, or NaN for numbers, for rows without a label."""
    teacher_BC: torch.Tensor
    """The teacher's logits."""
    progress: float = 0.0
    """Share of the optimizer steps taken so far, 1 at the last one."""
    student_features: Features = field(default_factory=Features)
    teacher_features: Features = field(default_factory=Features)

    def __len__(self) -> int:
        return len(self.labels_B)


@dataclass(frozen=True)
class DistillationLoss:
    """Sum over rows of the losses against the labels and against the teacher; takes the place of a `WeightedLoss`.

    Class weights and logit adjustment apply to the labels alone. A DeiT has a head for each part: its class token
    learns the labels, its distillation token the teacher. Rows without a label have no loss against the labels; a
    distillation loss that needs a label takes the teacher's prediction.
    """

    labels: WeightedLoss
    labels_weight: Number
    """Weight of the loss against the labels. 0: they are not used."""
    kinds: Sequence[DistillationKind]
    """The losses against the teacher, each with its own weight."""
    feature_losses: Mapping[int, FeatureLossModule] = field(default_factory=dict)
    """The feature losses among them with their weights, by index."""
    activation: Activation = "softmax"
    """How logits become predictions, which says how two predictions of a row are compared."""
    scaled: Callable[[torch.Tensor], torch.Tensor] = field(default=lambda teacher_BC: teacher_BC)
    """Returns the teacher's logits in the units in which the student trains."""

    def __call__(self, logits: torch.Tensor, targets: DistillationTargets) -> torch.Tensor:
        """Compute the sum, a scalar.

        Args:
            logits: the student's, shape (B, C); of two heads (B, 2, C), see `models.modules.head_logits`.
            targets: those of the same rows.
        """
        label_head_BC, teacher_head_BC = logits.unbind(1) if logits.dim() == 3 else (logits, logits)
        teacher_BC = self.scaled(targets.teacher_BC)
        has_label_B, labels_B = self._labels(targets.labels_B, teacher_BC)
        total = torch.zeros((), device=logits.device)
        for i, kind in enumerate(at_progress(kind, targets.progress) for kind in self.kinds):
            if isinstance(kind, LogitLoss):
                if self.activation == "softmax":
                    losses_B = kind(teacher_head_BC, teacher_BC, labels_B)
                else:
                    losses_B = kind.of_outputs(teacher_head_BC, teacher_BC, self.activation)
            else:
                features = targets.student_features, targets.teacher_features
                losses_B = self.feature_losses[i](*features, targets.progress)
            total = total + (fixed(kind.weight) * losses_B).sum()
        if any(ends_of(self.labels_weight)):
            # Also in a step in which the weight is 0: else a head of its own has no gradient, for which processes wait.
            weight = fixed(at_progress(self, targets.progress).labels_weight)
            total = total + weight * (self.labels.of_rows(label_head_BC, labels_B) * has_label_B).sum()
        return total

    def _labels(self, labels_B: torch.Tensor, teacher_BC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which rows have a label, and finite labels of all rows: the teacher's class where there is none."""
        if self.activation == "softmax":
            has_label_B = labels_B >= 0
            return has_label_B, torch.where(has_label_B, labels_B, teacher_BC.argmax(-1))
        missing_BC = labels_B < 0 if self.activation == "sigmoid" else labels_B.isnan()
        return ~missing_BC.any(-1), labels_B.masked_fill(missing_BC, 0.0)
