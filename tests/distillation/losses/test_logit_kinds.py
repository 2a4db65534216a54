"""Each loss against numbers made by hand, its gradient against differences."""

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch

from hf_finetune.distillation.config import DecoupledKD, HardLabel, LogitKind, MatchLogits, SoftTargets
from hf_finetune.distillation.losses.base import LogitLoss

LN2, LN3 = math.log(2), math.log(3)
# The student says 1/2, 1/2; the teacher 1/4, 3/4.
STUDENT, TEACHER = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, LN3]])
# Three classes: the student 1/2, 1/4, 1/4; the teacher 1/4, 1/4, 1/2.
STUDENT_3, TEACHER_3 = torch.tensor([[LN2, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, LN2]])
FIRST = torch.tensor([0])


def test_soft_targets_by_hand() -> None:
    """1/4 ln (1/4 / 1/2) + 3/4 ln (3/4 / 1/2); of logits that are twice as large at temperature 2, four times that."""
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert SoftTargets(1.0)(STUDENT, TEACHER, FIRST).tolist() == pytest.approx([expected])
    assert SoftTargets(2.0)(STUDENT, 2 * TEACHER, FIRST).tolist() == pytest.approx([4 * expected])
    assert SoftTargets(3.0)(TEACHER + 5, TEACHER, FIRST).tolist() == pytest.approx([0.0], abs=1e-6)


def test_hard_label_by_hand() -> None:
    """The teacher answers the second class, to which the student gives 1/4 in the second row."""
    student = torch.tensor([[0.0, 0.0], [LN3, 0.0]])
    assert HardLabel()(student, TEACHER.expand(2, 2), FIRST.expand(2)).tolist() == pytest.approx([LN2, math.log(4)])


def test_match_logits_by_hand() -> None:
    """Differences of 1 and 3: their squares' mean is 5."""
    assert MatchLogits()(torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 2.0]]), FIRST).tolist() == [5.0]


def test_decoupled_by_hand() -> None:
    """Label 0: the teacher says 1/4 against 3/4, the student 1/2 against 1/2; of the rest 1/3, 2/3 against 1/2, 1/2."""
    target = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    others = math.log(2 / 3) / 3 + 2 * math.log(4 / 3) / 3
    found = DecoupledKD(1.0, alpha=1.0, beta=8.0)(STUDENT_3, TEACHER_3, FIRST)
    assert found.tolist() == pytest.approx([target + 8 * others])
    # What soft targets weigh the second part by: the teacher's probability of the other classes.
    whole = DecoupledKD(1.0, alpha=1.0, beta=0.75)(STUDENT_3, TEACHER_3, FIRST)
    assert whole.tolist() == pytest.approx(SoftTargets(1.0)(STUDENT_3, TEACHER_3, FIRST).tolist())


def test_decoupled_of_two_classes_has_no_second_part() -> None:
    found = DecoupledKD(2.0, beta=100.0)(STUDENT, TEACHER, torch.tensor([1]))
    assert found.tolist() == pytest.approx(SoftTargets(2.0)(STUDENT, TEACHER, FIRST).tolist())


KINDS = [kind() for kind in get_args(LogitKind)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_the_contract_of_logit_losses(kind: LogitLoss) -> None:
    """One loss for each row, by that row alone."""
    student, teacher = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 3, 1])
    losses = kind(student, teacher, labels)
    assert losses.shape == (3,) and losses.dtype == torch.float32
    alone = [kind(student[i : i + 1], teacher[i : i + 1], labels[i : i + 1]) for i in range(3)]
    assert torch.allclose(torch.cat(alone), losses, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_gradients(kind: LogitLoss) -> None:
    """Against central differences, for a few rows at once; none flows into the teacher."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, generator=generator)
    labels, step = torch.tensor([0, 3, 1]), 1e-2
    loss: Callable[[torch.Tensor], torch.Tensor] = lambda logits: kind(logits, teacher, labels).sum()  # noqa: E731
    student.requires_grad_()
    (found,) = torch.autograd.grad(loss(student), student)
    for row, column in ((0, 0), (1, 3), (2, 2), (0, 1)):
        moved = torch.zeros_like(student)
        moved[row, column] = step
        with torch.no_grad():
            expected = (loss(student + moved) - loss(student - moved)) / (2 * step)
        assert float(found[row, column]) == pytest.approx(float(expected), abs=2e-3)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_answers_that_are_certain_have_finite_gradients(kind: LogitLoss) -> None:
    """Probabilities of 0 and 1 to the last digit, where the two disagree and where they agree; half precision as
    well."""
    student = torch.tensor([[200.0, -200.0, 0.0], [200.0, 0.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    teacher = torch.tensor([[-200.0, 200.0, 0.0], [200.0, 0.0, 0.0]])
    losses = kind(student, teacher, torch.tensor([1, 0]))
    losses.sum().backward()
    assert losses.dtype == torch.float32 and torch.isfinite(losses).all() and torch.isfinite(student.grad).all()
    disagree, agree = losses.tolist()
    assert disagree > 100 and agree == pytest.approx(0.0, abs=1e-6)
