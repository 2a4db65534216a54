import math

import pytest
import torch

from hf_finetune.training.losses import cross_entropy


def test_by_hand() -> None:
    """Logits (0, ln 3): probabilities 1/4 and 3/4."""
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    assert float(cross_entropy(logits, torch.tensor([1, 0]))) == pytest.approx(-math.log(0.75) - math.log(0.25))


def test_smoothing_by_hand() -> None:
    """Smoothing 0.2 over two classes: 0.9 on the label, 0.1 on the other."""
    logits = torch.tensor([[0.0, math.log(3)]])
    expected = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25))
    assert float(cross_entropy(logits, torch.tensor([1]), label_smoothing=0.2)) == pytest.approx(expected)


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.zeros(4096, 2, dtype=torch.bfloat16)
    assert float(cross_entropy(logits, torch.zeros(4096, dtype=torch.long))) == pytest.approx(4096 * math.log(2))
