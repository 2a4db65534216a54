"""CORAL on the logits of classes: by hand, and CORN, which is cross-entropy on them."""

import math

import pytest
import torch
from torch.nn import functional as F

from hf_finetune.training.losses.config import Coral, CrossEntropy

# Probabilities 1/2, 1/4, 1/4.
LOGITS = torch.tensor([[math.log(2), 0.0, 0.0]])


@pytest.mark.parametrize(("label", "expected"), [(0, (1 / 2, 3 / 4)), (1, (1 / 2, 3 / 4)), (2, (1 / 2, 1 / 4))])
def test_by_hand(label: int, expected: tuple[float, float]) -> None:
    """Level 0 is exceeded with 1/2, level 1 with 1/4."""
    loss = Coral()(LOGITS, torch.tensor([label]))
    assert float(loss) == pytest.approx(-sum(map(math.log, expected)), rel=1e-6)


def test_it_is_linear_in_soft_labels() -> None:
    logits, labels = torch.randn(4, 5), torch.tensor([0, 2, 4, 1])
    hard = Coral()(logits, labels)
    assert torch.allclose(Coral()(logits, F.one_hot(labels, 5).float()), hard, atol=1e-6)
    mixed = 0.3 * F.one_hot(labels, 5).float() + 0.7 * F.one_hot(labels.flip(0), 5).float()
    assert torch.allclose(Coral()(logits, mixed), 0.3 * hard + 0.7 * Coral()(logits, labels.flip(0)), atol=1e-5)
    smoothed = torch.stack([Coral()(logits, torch.full((4,), c)) for c in range(5)]).mean(0)
    assert torch.allclose(Coral()(logits, labels, 0.1), 0.9 * hard + 0.1 * smoothed, atol=1e-5)


def test_of_two_levels_it_is_cross_entropy() -> None:
    logits, labels = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    assert torch.allclose(Coral()(logits, labels), CrossEntropy()(logits, labels), atol=1e-6)


def test_a_certain_answer_has_a_gradient() -> None:
    logits = torch.tensor([[0.0, 200.0, 0.0], [200.0, 0.0, 0.0]], requires_grad=True)
    Coral()(logits, torch.tensor([1, 2])).sum().backward()
    assert torch.isfinite(logits.grad).all() and float(logits.grad[1, 0]) == pytest.approx(2.0, rel=1e-4)


def test_corn_of_class_logits_is_cross_entropy() -> None:
    """CORN (arXiv:2111.08851) sums, over the levels up to the label, the cross-entropy of "is exceeded, as it was
    reached". By the chain rule these conditional probabilities multiply to that of the label."""
    log_p, label = torch.randn(5).log_softmax(0), 3
    reached = [log_p[k:].logsumexp(0) for k in range(5)]
    above = [log_p[k + 1 :].logsumexp(0) - reached[k] for k in range(4)]
    corn = -sum(above[:label]) - (log_p[label] - reached[label])
    assert float(corn) == pytest.approx(float(-log_p[label]), rel=1e-5)
