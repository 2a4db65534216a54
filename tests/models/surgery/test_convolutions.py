"""Kernel sizes and pooling of convolutional networks: values by hand, equal logits, reload with transformers."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification, PreTrainedModel

from hf_finetune.models.surgery.kernel_size import SetKernelSize, center_kernel, spread_kernel
from hf_finetune.models.surgery.pooling import SetPooling

FAMILIES = ("efficientnet", "poolformer")


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(pixels()).logits


def reloaded(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    model.save_pretrained(folder)
    return AutoModelForImageClassification.from_pretrained(folder)


@pytest.fixture
def model(classifier: Callable) -> Callable[[str], PreTrainedModel]:
    return lambda family: copy.deepcopy(classifier(family).model)


def kernels(model: PreTrainedModel) -> dict[str, int]:
    """Return the sizes of the kernels that can change."""
    names = ("depthwise_conv.depthwise_conv.weight", "projection.weight")
    actual = {n: t for n, t in model.state_dict().items() if n.endswith(names) and t.ndim == 4}
    return {n: t.shape[-1] for n, t in actual.items()}


def test_kernels_by_hand() -> None:
    kernel = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert (
        torch.equal(center_kernel(kernel, 5)[0, 0, 1:4, 1:4], kernel[0, 0])
        and center_kernel(kernel, 5).sum() == kernel.sum()
    )
    assert torch.equal(center_kernel(center_kernel(kernel, 5), 3), kernel)
    assert center_kernel(kernel, 1).item() == 4.0
    # One weight, spread over nine; nine, gathered in one.
    assert torch.allclose(spread_kernel(torch.tensor([[[[9.0]]]]), 3), torch.ones(1, 1, 3, 3))
    assert spread_kernel(kernel, 1).item() == pytest.approx(36.0)
    # 3 into 5: the first new weight is three fifths of the first old one, along each side.
    assert spread_kernel(kernel + 1, 5)[0, 0, 0, 0].item() == pytest.approx(0.36)
    assert spread_kernel(kernel, 5).sum().item() == pytest.approx(36.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_larger_centered_kernels_keep_the_logits(family: str, model: Callable, tmp_path: Path) -> None:
    before, after = model(family), SetKernelSize(9)(model(family))
    assert set(kernels(after).values()) == {9} and max(kernels(before).values()) < 9
    assert torch.allclose(logits(after), logits(before), atol=1e-5) and logits(before).std() > 1e-3
    stock = reloaded(after, tmp_path)
    assert kernels(stock) == kernels(after)
    assert torch.allclose(logits(stock), logits(after), atol=1e-6)


@pytest.mark.parametrize("fill", ["centre", "resize"])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_sizes_carry_weights_over(family: str, fill: str, model: Callable, tmp_path: Path) -> None:
    """Down to 3 everywhere, and one stage alone up by two."""
    before = model(family)
    after = SetKernelSize(3, fill=fill)(before)
    sums = {n: t.sum((-2, -1)) for n, t in after.state_dict().items() if n in kernels(after)}
    assert set(kernels(after).values()) == {3}
    if fill == "resize":
        assert all(torch.allclose(s, before.state_dict()[n].sum((-2, -1)), atol=1e-5) for n, s in sums.items())
    assert logits(after).shape == logits(before).shape
    one = SetKernelSize(5, stages=(1,), fill=fill)(after)
    changed = {n for n, size in kernels(one).items() if size != kernels(after)[n]}
    assert changed and len(changed) < len(kernels(one))
    # Resizing blurs the kernels, so the logits change; zero padding keeps them.
    assert torch.allclose(logits(one), logits(after), atol=1e-5) == (fill == "centre")
    assert torch.allclose(logits(reloaded(one, tmp_path)), logits(one), atol=1e-6)


@pytest.mark.parametrize(
    ("family", "step", "field", "value"),
    [
        ("efficientnet", SetPooling(kind="max"), "pooling_type", "max"),
        ("poolformer", SetPooling(size=5), "pool_size", 5),
    ],
)
def test_pooling(family: str, step: SetPooling, field: str, value, model: Callable, tmp_path: Path) -> None:
    before = model(family)
    after = step(before)
    assert after.config.to_dict()[field] == value != before.config.to_dict()[field]
    assert not torch.allclose(logits(after), logits(before), atol=1e-4)
    assert all(torch.equal(t, after.state_dict()[n]) for n, t in before.state_dict().items())
    assert torch.allclose(logits(reloaded(after, tmp_path)), logits(after), atol=1e-6)


def test_max_pooling_by_hand(model: Callable) -> None:
    """The head reads the maximum of every feature map."""
    after = SetPooling(kind="max")(model("efficientnet")).eval()
    with torch.no_grad():
        output = after.efficientnet(pixels())
    assert torch.equal(output.pooler_output, output.last_hidden_state.amax((-2, -1)))
