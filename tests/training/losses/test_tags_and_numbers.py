"""The losses of tags and of numbers, computed by hand."""

import math

import pytest
import torch

from hf_finetune.training.losses.config import AbsoluteError, Asymmetric, BinaryCrossEntropy, Huber, SquaredError

# Logits (ln 3, 0): probabilities 3/4 and 1/2.
LOGITS = torch.tensor([[math.log(3), 0.0]])
TAGS = torch.tensor([[1.0, 0.0]])
ONCE, HALF = -math.log(0.75), math.log(2)


@pytest.mark.parametrize(
    ("loss", "smoothing", "weights", "expected"),
    [
        (BinaryCrossEntropy(), 0.0, None, ONCE + HALF),
        (BinaryCrossEntropy(positive_weight=2.0), 0.0, None, 2 * ONCE + HALF),
        (BinaryCrossEntropy(positive_weight=2.0), 0.0, [3.0, 5.0], 6 * ONCE + HALF),
        # 0.9 of the tag and 0.1 of its absence; the other way around for the tag that the row lacks.
        (BinaryCrossEntropy(), 0.2, None, 0.9 * ONCE + 0.1 * math.log(4) + HALF),
        (BinaryCrossEntropy(), 0.2, [3.0, 1.0], 3 * 0.9 * ONCE + 0.1 * math.log(4) + HALF),
        (Asymmetric(gamma_negative=0.0, clip=0.0), 0.0, None, ONCE + HALF),
        (Asymmetric(gamma_positive=1.0, gamma_negative=2.0, clip=0.0), 0.0, None, 0.25 * ONCE + 0.25 * HALF),
        (Asymmetric(gamma_negative=1.0, clip=0.1), 0.0, None, ONCE - 0.4 * math.log(0.6)),
        (Asymmetric(gamma_negative=0.0, clip=0.0), 0.0, [3.0, 5.0], 3 * ONCE + HALF),
    ],
)
def test_losses_of_tags_by_hand(loss: object, smoothing: float, weights: list[float] | None, expected: float) -> None:
    weights_C = None if weights is None else torch.tensor(weights)
    assert loss(LOGITS, TAGS, smoothing, weights_C).tolist() == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(2.0), Asymmetric(0.5, 2.0, 0.1)])
def test_the_loss_of_mixed_tags_is_the_mixture(loss: object) -> None:
    """So that Mixup may mix tags."""
    logits, weights = torch.tensor([[0.3, -1.2, 2.0]]), torch.tensor([1.0, 2.0, 3.0])
    one, other = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    mixed = loss(logits, 0.3 * one + 0.7 * other, 0.1, weights)
    expected = 0.3 * loss(logits, one, 0.1, weights) + 0.7 * loss(logits, other, 0.1, weights)
    assert mixed.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(SquaredError(), 4.0), (AbsoluteError(), 2.0), (Huber(), 1.5), (Huber(delta=4.0), 2.0)],
)
def test_losses_of_numbers_by_hand(loss: object, expected: float) -> None:
    assert loss(torch.tensor([[3.0]]), torch.tensor([[1.0]])).tolist() == [expected]
