import math

import pytest
import torch

from hf_finetune.training.losses.config import CrossEntropy, Focal
from hf_finetune.training.losses.divergence import divergence, symmetric_divergence
from hf_finetune.training.losses.weighted import WeightedLoss

# Logits (0, ln 3): probabilities 1/4 and 3/4.
LOGITS = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
LABELS = torch.tensor([1, 0])


def test_by_hand() -> None:
    assert CrossEntropy()(LOGITS, LABELS).tolist() == pytest.approx([-math.log(0.75), -math.log(0.25)])


def test_smoothing_by_hand() -> None:
    """Smoothing 0.2 over two classes: 0.9 on the label, 0.1 on the other."""
    expected = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25))
    assert float(CrossEntropy()(LOGITS, LABELS, 0.2)[0]) == pytest.approx(expected)


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.zeros(4096, 2, dtype=torch.bfloat16)
    labels = torch.zeros(4096, dtype=torch.long)
    assert float(WeightedLoss()(logits, labels)) == pytest.approx(4096 * math.log(2))


def test_focal_by_hand() -> None:
    """(1/4)^2 of -ln 3/4 where the label has 3/4, (3/4)^2 of -ln 1/4 where it has 1/4."""
    expected = [-math.log(0.75) / 16, -math.log(0.25) * 9 / 16]
    assert Focal(2.0)(LOGITS, LABELS).tolist() == pytest.approx(expected)
    assert torch.allclose(Focal(0.0)(LOGITS, LABELS), CrossEntropy()(LOGITS, LABELS))


def test_focal_with_smoothing_by_hand() -> None:
    expected = -0.9 * math.log(0.75) * 0.25 - 0.1 * math.log(0.25) * 0.75
    assert float(Focal(1.0)(LOGITS, LABELS, 0.2)[0]) == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_of_a_certain_answer_has_a_gradient(gamma: float) -> None:
    """The label's probability is 1 to the last digit: (1 - p)^(gamma - 1) would be infinite."""
    logits = torch.tensor([[0.0, 200.0], [200.0, 0.0]], requires_grad=True)
    Focal(gamma)(logits, torch.tensor([1, 1])).sum().backward()
    assert torch.isfinite(logits.grad).all() and torch.allclose(logits.grad[1], torch.tensor([1.0, -1.0]))


def test_symmetric_divergence_by_hand() -> None:
    """(1/4, 3/4) against (1/2, 1/2), summed over two rows of which one is the same in both."""
    one = torch.tensor([[0.0, math.log(3)], [5.0, 1.0]])
    other = torch.tensor([[0.0, 0.0], [5.0, 1.0]])
    there = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    back = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert float(symmetric_divergence(one, other, "softmax")) == pytest.approx((there + back) / 2, rel=1e-5)


def test_divergences_of_tags_and_numbers_by_hand() -> None:
    """Tags of probability 3/4 against 1/2, and equal ones; numbers 3 and 1 against 1 and 1."""
    one, other = torch.tensor([[math.log(3), 5.0]]), torch.tensor([[0.0, 5.0]])
    there = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    back = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert divergence(one, other, "sigmoid").tolist() == pytest.approx([there], rel=1e-5)
    assert divergence(2 * one, 2 * other, "sigmoid", 2.0).tolist() == pytest.approx([4 * there], rel=1e-5)
    assert float(symmetric_divergence(one, other, "sigmoid")) == pytest.approx((there + back) / 2, rel=1e-5)
    numbers = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]])
    assert divergence(*numbers, "identity", 7.0).tolist() == [2.0]
    assert float(symmetric_divergence(*numbers, "identity")) == 2.0


def test_symmetric_divergence_is_half_of_both_directions() -> None:
    one, other = 3 * torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    for activation in ("softmax", "sigmoid"):
        both = divergence(one, other, activation) + divergence(other, one, activation)
        assert float(symmetric_divergence(one, other, activation)) == pytest.approx(float(both.sum()) / 2, rel=1e-5)


def test_weights_by_hand() -> None:
    """Divided by rows later: the row of weight 3 counts three times the other's, whatever else is in the batch."""
    loss = WeightedLoss(weights_C=torch.tensor([3.0, 0.5]))
    expected = 0.5 * -math.log(0.75) + 3 * -math.log(0.25)
    assert float(loss(LOGITS, LABELS)) == pytest.approx(expected)
    assert float(loss(LOGITS[:1], LABELS[:1]) + loss(LOGITS[1:], LABELS[1:])) == pytest.approx(expected)


def test_logit_adjustment_by_hand() -> None:
    """A share of 3/4 of class 0 makes the odds 1 : 3 even."""
    shift = torch.tensor([math.log(0.75), math.log(0.25)])
    assert float(WeightedLoss(shift_C=shift)(LOGITS, LABELS)) == pytest.approx(2 * math.log(2))
