"""Training a student: as any classifier, with a teacher's logits beside the labels of its rows.

Legend: N training rows, B rows of a forward pass, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from hf_finetune.data.taught_rows import COLUMN, TaughtRows, TaughtViews, with_teacher
from hf_finetune.data.views import Views
from hf_finetune.training.distillation_choices import DistillationKind
from hf_finetune.training.losses import WeightedLoss
from hf_finetune.training.trainer import ClassifierTrainer


@dataclass(frozen=True)
class Taught:
    """The labels of a micro-batch's rows, and what the teacher says of them."""

    labels_B: torch.Tensor
    """Class indices; -1 of rows without a label."""
    teacher_BC: torch.Tensor
    """The teacher's logits."""

    def __len__(self) -> int:
        return len(self.labels_B)


@dataclass(frozen=True)
class DistillationLoss:
    """Sum over rows of what they cost against the labels and against the teacher; stands in the place of a `WeightedLoss`.

    Class weights and the adjustment of logits are of the labels' part alone: the teacher answers rare classes as it does. A
    DeiT has a head for each part: its class token is asked for the labels, its distillation token for the teacher. Rows
    without a label have no part of the labels; where a kind asks for one, the class that the teacher answers stands in.
    """

    labels: WeightedLoss
    labels_weight: float
    """How much the labels' part counts. 0: they are not looked at."""
    kinds: Sequence[DistillationKind]
    """What is asked of the student beside the labels; each has its own weight."""

    def __call__(self, logits: torch.Tensor, taught: Taught) -> torch.Tensor:
        """Scalar.

        Args:
            logits: the student's, shape (B, C); of two heads (B, 2, C), see `heads.head_logits`.
            taught: of the same rows.
        """
        own_BC, distilled_BC = logits.unbind(1) if logits.dim() == 3 else (logits, logits)
        has_label_B = taught.labels_B >= 0
        labels_B = torch.where(has_label_B, taught.labels_B, taught.teacher_BC.argmax(-1))
        total = sum((kind.weight * kind(distilled_BC, taught.teacher_BC, labels_B)).sum() for kind in self.kinds)
        if self.labels_weight:
            total = total + self.labels_weight * (self.labels.of_rows(own_BC, labels_B) * has_label_B).sum()
        return total


class DistillationTrainer(ClassifierTrainer):
    """Trains a student on the labels of its rows and on its teacher's logits of them.

    Args:
        model, args: see `ClassifierTrainer`.
        teacher: the teacher's logits of the training rows, in their order, see `TaughtRows`; with `augmentation`, what answers
            the views as they come up.
        loss: of labels and teacher.
        fields: all others of `ClassifierTrainer`. Not `mix`: the teacher sees no mixed rows.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        teacher: Any,
        loss: DistillationLoss,
        **fields: Any,
    ) -> None:
        super().__init__(model, args, loss=loss, **fields)
        assert not self.mix, "the teacher sees no mixed rows"
        self.teacher = teacher

    def _training_rows(self) -> TaughtRows | TaughtViews:
        rows = super()._training_rows()
        if isinstance(rows, Views):
            assert callable(self.teacher), "the teacher has seen the rows as they are"
            return TaughtViews(rows, self.teacher)
        assert not callable(self.teacher), "the teacher answers views, and the rows have none"
        return TaughtRows(rows, self.teacher)

    def _training_collate(self) -> Callable[[dict[str, list]], dict[str, Any]]:
        return partial(with_teacher, super()._training_collate())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """As the classifier's; the loss gets the labels with the teacher's logits of the same rows."""
        student = {name: x for name, x in inputs.items() if name != COLUMN}
        student["labels"] = Taught(inputs["labels"], inputs[COLUMN])
        return super().compute_loss(model, student, return_outputs, num_items_in_batch)
