"""Logit losses against values by hand, and their gradients against finite differences."""

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch

from hf_finetune.distillation.config import DecoupledKD, HardLabel, LogitKind, MatchLogits, SoftTargets
from hf_finetune.distillation.losses.base import LogitLoss

LN2, LN3 = math.log(2), math.log(3)
# Probabilities: the student's 1/2, 1/2; the teacher's 1/4, 3/4.
STUDENT, TEACHER = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, LN3]])
# Three classes: the student's 1/2, 1/4, 1/4; the teacher's 1/4, 1/4, 1/2.
STUDENT_3, TEACHER_3 = torch.tensor([[LN2, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, LN2]])
FIRST = torch.tensor([0])


def test_soft_targets_by_hand() -> None:
    """1/4 ln (1/4 / 1/2) + 3/4 ln (3/4 / 1/2); four times that at temperature 2, for logits twice as large."""
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert SoftTargets(1.0)(STUDENT, TEACHER, FIRST).tolist() == pytest.approx([expected])
    assert SoftTargets(2.0)(STUDENT, 2 * TEACHER, FIRST).tolist() == pytest.approx([4 * expected])
    assert SoftTargets(3.0)(TEACHER + 5, TEACHER, FIRST).tolist() == pytest.approx([0.0], abs=1e-6)


def test_hard_label_by_hand() -> None:
    """The teacher predicts the second class, to which the student gives 1/4 in the second row."""
    student = torch.tensor([[0.0, 0.0], [LN3, 0.0]])
    assert HardLabel()(student, TEACHER.expand(2, 2), FIRST.expand(2)).tolist() == pytest.approx([LN2, math.log(4)])


def test_match_logits_by_hand() -> None:
    """Differences of 1 and 3: their squares' mean is 5."""
    assert MatchLogits()(torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 2.0]]), FIRST).tolist() == [5.0]


def test_decoupled_by_hand() -> None:
    """Label 0 or another: teacher 1/4, 3/4, student 1/2, 1/2; the other classes: teacher 1/3, 2/3, student 1/2, 1/2."""
    target = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    others = math.log(2 / 3) / 3 + 2 * math.log(4 / 3) / 3
    actual = DecoupledKD(1.0, alpha=1.0, beta=8.0)(STUDENT_3, TEACHER_3, FIRST)
    assert actual.tolist() == pytest.approx([target + 8 * others])
    # Soft targets weight the second part by the teacher's probability of the other classes.
    whole = DecoupledKD(1.0, alpha=1.0, beta=0.75)(STUDENT_3, TEACHER_3, FIRST)
    assert whole.tolist() == pytest.approx(SoftTargets(1.0)(STUDENT_3, TEACHER_3, FIRST).tolist())


def test_decoupled_has_no_second_part_with_two_classes() -> None:
    actual = DecoupledKD(2.0, beta=100.0)(STUDENT, TEACHER, torch.tensor([1]))
    assert actual.tolist() == pytest.approx(SoftTargets(2.0)(STUDENT, TEACHER, FIRST).tolist())


def test_losses_of_tags_by_hand() -> None:
    """Tags of the student 1/2, 1/2; of the teacher 1/4, 3/4: the same divergence for both, or 1/2 for its tag."""
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[-LN3, LN3]])
    one = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert SoftTargets(1.0).of_outputs(student, teacher, "sigmoid").tolist() == pytest.approx([2 * one])
    assert SoftTargets(2.0).of_outputs(student, 2 * teacher, "sigmoid").tolist() == pytest.approx([8 * one])
    assert HardLabel().of_outputs(teacher, -teacher, "sigmoid").tolist() == pytest.approx([2 * math.log(4)])
    assert MatchLogits().of_outputs(student, teacher, "sigmoid").tolist() == pytest.approx([LN3**2])


def test_losses_of_numbers_by_hand() -> None:
    student, teacher = torch.tensor([[1.0]]), torch.tensor([[4.0]])
    assert SoftTargets(2.0).of_outputs(student, teacher, "identity").tolist() == [9.0]
    assert MatchLogits().of_outputs(student, teacher, "identity").tolist() == [9.0]


def test_what_a_loss_refuses_has_a_reason() -> None:
    """Every loss compares classes; beside them it compares a kind of prediction, or says why not."""
    refused = {kind: {*kind.refuses} for kind in get_args(LogitKind)}
    assert refused == {
        SoftTargets: set(),
        MatchLogits: set(),
        HardLabel: {"identity"},
        DecoupledKD: {"sigmoid", "identity"},
    }


KINDS = [kind() for kind in get_args(LogitKind)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_the_contract_of_logit_losses(kind: LogitLoss) -> None:
    """One loss for each row, which depends on that row alone."""
    student, teacher = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 3, 1])
    losses = kind(student, teacher, labels)
    assert losses.shape == (3,) and losses.dtype == torch.float32
    alone = [kind(student[i : i + 1], teacher[i : i + 1], labels[i : i + 1]) for i in range(3)]
    assert torch.allclose(torch.cat(alone), losses, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_gradients(kind: LogitLoss) -> None:
    """Gradients equal central differences."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, generator=generator)
    labels, step = torch.tensor([0, 3, 1]), 1e-2
    loss: Callable[[torch.Tensor], torch.Tensor] = lambda logits: kind(logits, teacher, labels).sum()  # noqa: E731
    student.requires_grad_()
    (actual,) = torch.autograd.grad(loss(student), student)
    for row, column in ((0, 0), (1, 3), (2, 2), (0, 1)):
        moved = torch.zeros_like(student)
        moved[row, column] = step
        with torch.no_grad():
            expected = (loss(student + moved) - loss(student - moved)) / (2 * step)
        assert float(actual[row, column]) == pytest.approx(float(expected), abs=2e-3)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_certain_predictions_have_finite_gradients(kind: LogitLoss) -> None:
    """Probabilities of exactly 0 and 1, where the networks disagree and where they agree, in half precision too."""
    student = torch.tensor([[200.0, -200.0, 0.0], [200.0, 0.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    teacher = torch.tensor([[-200.0, 200.0, 0.0], [200.0, 0.0, 0.0]])
    losses = kind(student, teacher, torch.tensor([1, 0]))
    losses.sum().backward()
    assert losses.dtype == torch.float32 and torch.isfinite(losses).all() and torch.isfinite(student.grad).all()
    disagree, agree = losses.tolist()
    assert disagree > 0.1 and agree == pytest.approx(0.0, abs=1e-6)
