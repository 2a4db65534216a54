"""Stochastic depth and LayerDrop: what a layer gives when it is passed over, and where that is message."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from hf_finetune.models.kernels.narrow_last_layer import narrow_to_first_token
from hf_finetune.models.loading import Loaded
from hf_finetune.models.surgery.stochastic_depth import LayerDrop, Skip, StochasticDepth


class AddOne(nn.Module):
    """A layer by hand: what it adds is 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


@pytest.mark.parametrize(("rescale", "added"), [(False, 1.0), (True, 4.0)])
def test_a_row_skips_the_layer_or_gets_its_output(rescale: bool, added: float) -> None:
    layer, x = AddOne(), torch.randn(4000, 3, 2)
    layer.register_forward_hook(Skip(0.75, rescale))
    torch.manual_seed(0)
    difference = layer(x) - x
    passed = difference.abs().amax((1, 2)) == 0
    torch.testing.assert_close(difference[~passed], torch.full_like(difference[~passed], added), rtol=0, atol=1e-5)
    assert passed.float().mean().item() == pytest.approx(0.75, abs=0.03)
    if rescale:
        assert difference.mean().item() == pytest.approx(1.0, abs=0.15)
    assert torch.equal(layer.eval()(x), x + 1)


def test_rates_over_the_layers(classifier: Callable[..., Loaded]) -> None:
    def rates(step: StochasticDepth | LayerDrop, family: str) -> list[float]:
        model = step(classifier(family).model)
        layers = model.vit.layers if family == "vit" else model.bert.encoder.layer
        return [hook.rate for layer in layers for hook in layer._forward_hooks.values()]

    assert rates(StochasticDepth(0.4), "vit") == [0.0, 0.2, 0.4]
    assert rates(StochasticDepth(0.4, "constant"), "vit") == [0.4, 0.4, 0.4]
    assert rates(LayerDrop(0.4), "bert") == [0.4, 0.4, 0.4]
    assert rates(LayerDrop(0.4, "linear"), "bert") == [0.0, 0.2, 0.4]


@pytest.mark.parametrize(
    ("family", "step"),
    [
        ("vit", StochasticDepth(0.5)),
        ("modernbert", StochasticDepth(0.5)),
        ("dinov2", StochasticDepth(0.5)),
        ("dinov2", StochasticDepth(0.5, "constant")),
        ("beit", StochasticDepth(0.5)),
        ("beit", StochasticDepth(0.5, "constant")),
        ("swin", StochasticDepth(0.5)),
        ("convnext", StochasticDepth(0.5)),
        ("poolformer", StochasticDepth(0.5)),
        *(
            (family, LayerDrop(0.5))
            for family in ("bert", "roberta", "distilbert", "deberta-v2", "mpnet", "electra", "vit")
        ),
    ],
)
def test_only_training_is_random(family: str, step, classifier: Callable[..., Loaded], inputs) -> None:
    batch = {name: tensor.repeat(4, *[1] * (tensor.ndim - 1)) for name, tensor in inputs(family).items()}
    model = classifier(family, dropout=0.0).model
    with torch.no_grad():
        expected = model(**batch).logits
        after = step(model)
        torch.testing.assert_close(after(**batch).logits, expected, rtol=0, atol=1e-6)
        after.train()
        torch.manual_seed(0)
        first = after(**batch).logits
        assert not torch.equal(first, after(**batch).logits)
        torch.manual_seed(0)
        assert torch.equal(after(**batch).logits, first)


def test_rate_is_in_the_config_if_it_has_a_field(classifier: Callable[..., Loaded]) -> None:
    message = StochasticDepth(0.3)(classifier("beit").model)
    assert message.config.drop_path_rate == 0.3 and not any(layer._forward_hooks for layer in message.beit.layers)
    # Its config supports one schedule only; this one acts in training and is not saved.
    other = StochasticDepth(0.3, "constant")(classifier("beit").model)
    assert other.config.drop_path_rate == 0.0 and all(layer._forward_hooks for layer in other.beit.layers)


def test_skipped_layers_still_get_gradients(classifier: Callable[..., Loaded], inputs) -> None:
    """Distributed training waits for all gradients."""
    model = LayerDrop(0.999)(classifier("bert").model).train()
    model(**inputs("bert"), labels=torch.tensor([0, 1])).loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_with_a_narrowed_last_layer(classifier: Callable[..., Loaded], inputs) -> None:
    model, batch = LayerDrop(0.5)(classifier("bert", dropout=0.0).model).train(), inputs("bert")
    torch.manual_seed(0)
    whole = model(**batch).logits
    assert narrow_to_first_token(model) is not None
    torch.manual_seed(0)
    torch.testing.assert_close(model(**batch).logits, whole, rtol=0, atol=1e-5)
