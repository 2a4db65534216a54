"""PolyLoss: by hand, on hard labels, smoothed ones and mixtures."""

import math

import pytest
import torch

from hf_finetune.errors import InputError
from hf_finetune.training.losses.config import CrossEntropy, PolyLoss

# Logits (0, ln 3): probabilities 1/4 and 3/4.
LOGITS, LABELS = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]]), torch.tensor([1, 0])


def test_by_hand() -> None:
    expected = [-math.log(0.75) + 2 * 0.25, -math.log(0.25) + 2 * 0.75]
    assert PolyLoss(2.0)(LOGITS, LABELS).tolist() == pytest.approx(expected)


def test_smoothing_by_hand() -> None:
    """Smoothing 0.2 over two classes: 0.9 on the label, 0.1 on the other class."""
    expected = 0.9 * (-math.log(0.75) + 0.25) + 0.1 * (-math.log(0.25) + 0.75)
    assert float(PolyLoss()(LOGITS, LABELS, 0.2)[0]) == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_epsilon_0_is_cross_entropy(smoothing: float) -> None:
    logits = 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    assert torch.allclose(PolyLoss(0.0)(logits, labels, smoothing), CrossEntropy()(logits, labels, smoothing))


def test_gradient_is_finite_where_the_label_is_certain() -> None:
    logits = torch.tensor([[0.0, 200.0], [200.0, 0.0]], requires_grad=True)
    PolyLoss(-1.0)(logits, torch.tensor([1, 1])).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_the_first_coefficient_stays_above_0() -> None:
    with pytest.raises(InputError, match=r"epsilon.*-2"):
        PolyLoss(-2.0)
