"""Fast dropout: correct in expectation, seeded, removed afterwards, and inactive in evaluation."""

from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.tiny import TEXT_FAMILIES, tiny_text_checkpoint
from torch import nn

from hf_finetune.models.kernels.dropout import FastDropout, fast_dropout, masks


@pytest.fixture(autouse=True)
def seeded() -> None:
    masks.renew()
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_share_and_scale(rate: float, dtype: torch.dtype) -> None:
    actual = masks(torch.ones(400, 500, dtype=dtype), rate)
    zero = (actual == 0).float().mean().item()
    # Standard deviation of the share: sqrt(.25 / 200,000) = 0.0011.
    assert zero == pytest.approx(rate, abs=0.006)
    assert actual.max().item() == pytest.approx(1 / (1 - rate), rel=0.004) and actual.unique().numel() == 2


def test_elements_of_a_site_are_independent() -> None:
    actual = (masks(torch.ones(1000, 1000), 0.5) == 0).float()
    for shift in (1, 2, 3, 4, 1000):
        flat = actual.flatten()
        both = (flat[shift:] * flat[:-shift]).mean().item()
        assert both == pytest.approx(0.25, abs=0.003), shift


def test_sites_of_a_forward_pass_differ_and_the_seed_decides() -> None:
    x = torch.ones(1000)
    first, second = masks(x, 0.5), masks(x, 0.5)
    assert not torch.equal(first, second)
    masks.renew()
    torch.manual_seed(0)
    assert torch.equal(masks(x, 0.5), first) and torch.equal(masks(x, 0.5), second)
    masks.renew()
    assert not torch.equal(masks(x, 0.5), first)


def test_gradient_is_the_mask() -> None:
    layer = FastDropout(0.3).train()
    x = torch.randn(50, 8, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(y, x * x.grad)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_rates_at_the_ends(rate: float) -> None:
    x = torch.randn(10)
    assert torch.equal(FastDropout(rate).train()(x), x * (1 - rate))


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_in_a_model(tmp_path: Path, family: str) -> None:
    tiny_text_checkpoint(tmp_path, family)
    model = load_classifier(tmp_path, task="text-classification", labels=("a", "b"), attn_implementation="eager").model
    batch = {"input_ids": torch.randint(10, 60, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.long)}
    batch["attention_mask"][0, 5:] = 0
    before, config = model.eval()(**batch).logits, model.config.to_json_string()
    kinds = [type(m) for m in model.modules()]
    with fast_dropout(model):
        assert torch.allclose(model(**batch).logits, before, atol=1e-6)
        assert all(type(m) is not nn.Dropout for m in model.modules())
        model.train()
        torch.manual_seed(1)
        dropped = model(**batch).logits
        assert not torch.allclose(dropped, before, atol=1e-3) or family == "modernbert"
        assert not torch.equal(model(**batch).logits, dropped) or family == "modernbert"
        torch.manual_seed(1)
        assert torch.equal(model(**batch).logits, dropped)
    assert [type(m) for m in model.modules()] == kinds and model.config.to_json_string() == config
    assert model.config._attn_implementation == "eager"
    assert torch.equal(model.eval()(**batch).logits, before)


def test_expectation_is_the_layer_without_dropout() -> None:
    """A linear network after one dropout site: its expectation is the network without dropout."""
    model = nn.Sequential(FastDropout(0.2), nn.Linear(6, 3)).train()
    x = torch.randn(4, 6)
    total = torch.zeros(4, 3)
    for _ in range(3000):
        masks.renew()
        total += model(x).detach()
    # The noise of the mean is about .25 * |x| * |w| / sqrt(3000).
    assert torch.allclose(total / 3000, model.eval()(x), atol=0.05)
