"""Pretraining losses against values by hand."""

import math

import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from hf_finetune.models.patches import patch_pixels
from hf_finetune.pretraining.objectives.mae import unseen_patches
from hf_finetune.pretraining.objectives.simclr import nt_xent
from hf_finetune.pretraining.objectives.simmim import masked_pixels
from hf_finetune.training.losses.contrastive import contrastive


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_contrastive(temperature: float) -> None:
    """Two orthogonal rows of any length: cosine 1 to the own view, 0 to the other row's."""
    one, other = torch.tensor([[3.0, 0.0], [0.0, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 7.0]])
    expected = 2 * math.log(1 + math.exp(-1 / temperature))
    assert contrastive(one, other, temperature=temperature).sum().item() == pytest.approx(expected)
    swapped = 2 * math.log(1 + math.exp(1 / temperature))
    assert contrastive(one, other.flip(0), temperature=temperature).sum().item() == pytest.approx(swapped)


def test_masked_pixels() -> None:
    """1 for the single pixel of the first row, (1 + 2 + 3 + 4) / 4 for the second; visible pixels have no gradient."""
    pixels = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]] * 2)
    predicted = torch.zeros_like(pixels, requires_grad=True)
    masked = torch.tensor([[[True, False], [False, False]], [[True, True], [True, True]]])
    loss = masked_pixels(predicted, pixels, masked)
    assert loss.item() == pytest.approx(1 + 2.5)
    loss.backward()
    assert predicted.grad.tolist() == [[[[-1.0, 0.0], [0.0, 0.0]]], [[[-0.25, -0.25], [-0.25, -0.25]]]]


def test_unseen_patches() -> None:
    """(1, 3) has the mean 2 and the sample variance 2; a patch of one color is normalized to 0."""
    pixels, zero = torch.tensor([[[1.0, 3.0], [5.0, 5.0]], [[2.0, 2.0], [-1.0, 1.0]]]), torch.zeros(2, 2, 2)
    # (1 + 9 + 25 + 25) / 4 and (4 + 4 + 1 + 1) / 4.
    assert unseen_patches(zero, pixels, normalize=False).item() == pytest.approx(15 + 2.5)
    # In each row two of four values differ by 1/sqrt(2).
    assert unseen_patches(zero, pixels, normalize=True).item() == pytest.approx(0.25 + 0.25, rel=1e-5)
    right = torch.tensor([[-1.0, 1.0], [0.0, 0.0]]) / math.sqrt(2)
    assert unseen_patches(right[None], pixels[:1], normalize=True).item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("normalize", [True, False])
def test_unseen_patches_equal_transformers(normalize: bool) -> None:
    torch.manual_seed(0)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    decoder = {f"decoder_{name}": value for name, value in small.items()}
    reference = ViTMAEForPreTraining(
        ViTMAEConfig(**small, **decoder, image_size=12, patch_size=4, norm_pix_loss=normalize)
    )
    pixels = torch.rand(2, 3, 12, 12)
    whole = reference(pixels)
    is_masked = whole.mask.bool()
    patches, predicted = (x[is_masked].view(2, 7, 48) for x in (patch_pixels(pixels, 4), whole.logits))
    assert unseen_patches(predicted, patches, normalize=normalize).item() / 2 == pytest.approx(
        whole.loss.item(), rel=1e-5
    )


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_nt_xent(temperature: float) -> None:
    """Two orthogonal rows: cosine 1 to the other view of the row, 0 to both views of the other row."""
    one, other = torch.tensor([[3.0, 0.0], [0.0, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 7.0]])
    expected = math.log(1 + 2 * math.exp(-1 / temperature))
    assert nt_xent(one, other, temperature=temperature).tolist() == pytest.approx([expected] * 2)
    # First views of (1, 0) and (1, 0), second ones of (1, 0) and (0, 1): cosines 1, 1, 0 of three views to the others.
    same, e = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), math.exp(1 / temperature)
    first = (2 * math.log((2 * e + 1) / e)) / 2
    second = (math.log(2 * e + 1) + math.log(3)) / 2
    assert nt_xent(same, torch.eye(2), temperature=temperature).tolist() == pytest.approx([first, second])
    assert nt_xent(one[:1], other[:1], temperature=temperature).tolist() == [0.0]


def test_gradients() -> None:
    torch.manual_seed(0)
    one, other = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    # The losses compute in float32.
    options = {"eps": 1e-2, "atol": 1e-2, "rtol": 1e-2}
    assert torch.autograd.gradcheck(lambda a, b: contrastive(a, b, temperature=0.5).double(), (one, other), **options)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=0.5).double(), (one, other), **options)
