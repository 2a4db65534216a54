"""A student's loss and its training: the teacher's logits are those of its rows, however a step is cut."""

import math

import pytest
import torch

from hf_finetune.training.distillation import DistillationLoss, Taught
from hf_finetune.training.distillation_choices import HardLabel, MatchLogits, SoftTargets
from hf_finetune.training.losses import WeightedLoss

LN2, LN3 = math.log(2), math.log(3)
# The student says 1/2, 1/2; the teacher 1/4, 3/4.
STUDENT, TEACHER = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, LN3]])


def test_kinds_and_labels_add_up() -> None:
    """Two rows: 0.5 of the soft targets, 3 of the hard label, and 2 of the cross-entropy times a weight of 0.25."""
    loss = DistillationLoss(
        WeightedLoss(weights_C=torch.tensor([1.0, 0.25])), 2.0, (SoftTargets(1.0, weight=0.5), HardLabel(weight=3.0))
    )
    soft = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    taught = Taught(torch.tensor([1, 1]), TEACHER.expand(2, 2))
    assert len(taught) == 2
    assert float(loss(STUDENT.expand(2, 2), taught)) == pytest.approx(2 * (0.5 * soft + 3 * LN2 + 2 * 0.25 * LN2))


def test_labels_of_no_weight_are_not_looked_at() -> None:
    loss = DistillationLoss(WeightedLoss(), 0.0, (MatchLogits(weight=2.0),))
    assert float(loss(STUDENT, Taught(torch.tensor([-1]), TEACHER))) == pytest.approx(LN3**2)
