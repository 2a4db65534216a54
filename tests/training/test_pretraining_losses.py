"""The losses of pretraining, by hand."""

import math

import pytest
import torch

from hf_finetune.training.pretraining_losses import masked_pixels, masked_tokens
from hf_finetune.training.representation_losses import contrastive


def test_masked_tokens() -> None:
    """Probabilities 1/4 and 3/4 of the right token: log 4 + log 4/3."""
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, math.log(3.0)]])
    assert masked_tokens(logits, torch.tensor([0, 1])).item() == pytest.approx(math.log(4) + math.log(4 / 3))
    assert masked_tokens(torch.zeros(0, 7), torch.zeros(0, dtype=torch.long)).item() == 0


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_contrastive(temperature: float) -> None:
    """Two rows at right angles, whatever their lengths: cosine 1 to the own view, 0 to the other's."""
    one, other = torch.tensor([[3.0, 0.0], [0.0, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 7.0]])
    expected = 2 * math.log(1 + math.exp(-1 / temperature))
    assert contrastive(one, other, temperature=temperature).sum().item() == pytest.approx(expected)
    swapped = 2 * math.log(1 + math.exp(1 / temperature))
    assert contrastive(one, other.flip(0), temperature=temperature).sum().item() == pytest.approx(swapped)


def test_masked_pixels() -> None:
    """1 of the first row's one pixel, (1 + 2 + 3 + 4) / 4 of the second row; what was not left out has no gradient."""
    pixels = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]] * 2)
    guessed = torch.zeros_like(pixels, requires_grad=True)
    masked = torch.tensor([[[True, False], [False, False]], [[True, True], [True, True]]])
    loss = masked_pixels(guessed, pixels, masked)
    assert loss.item() == pytest.approx(1 + 2.5)
    loss.backward()
    assert guessed.grad.tolist() == [[[[-1.0, 0.0], [0.0, 0.0]]], [[[-0.25, -0.25], [-0.25, -0.25]]]]


def test_gradients() -> None:
    torch.manual_seed(0)
    one, other = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    # The losses compute in float32.
    options = {"eps": 1e-2, "atol": 1e-2, "rtol": 1e-2}
    assert torch.autograd.gradcheck(lambda a, b: contrastive(a, b, temperature=0.5).double(), (one, other), **options)
    assert torch.autograd.gradcheck(lambda a: masked_tokens(a, torch.tensor([0, 3, 1])).double(), (one,), **options)
