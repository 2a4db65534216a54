"""Layers that are kept, dropped, copied, added and reinitialized: where their weights come from."""

from __future__ import annotations

import pytest
import torch
from helpers.models import randomized
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from hf_finetune.errors import InputError
from hf_finetune.models.surgery.layers import AddLayers, DropLayers, DuplicateLayers, KeepLayers
from hf_finetune.models.surgery.reinit import ReinitTopLayers

TINY = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 50}
BATCH = {"input_ids": torch.arange(5, 25).view(2, 10)}


def lively(family: str = "bert", depth: int = 4, **fields) -> PreTrainedModel:
    """A classifier with random norms and biases, so that all of them matter."""
    sizes = TINY | {"num_hidden_layers": depth}
    if family == "modernbert":
        sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **sizes | fields)
    return randomized(AutoModelForSequenceClassification.from_config(config))


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(**BATCH).logits


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (KeepLayers(first=2), [0, 1]),
        (KeepLayers(last=2), [2, 3]),
        (KeepLayers(every=2), [0, 2]),
        (KeepLayers(every=3), [0, 3]),
        (KeepLayers(layers=(1, 3)), [1, 3]),
        (DropLayers(first=1), [1, 2, 3]),
        (DropLayers(last=3), [0]),
        (DropLayers(every=2), [1, 3]),
        (DropLayers(layers=(0, 3)), [1, 2]),
        (DuplicateLayers(last=1), [0, 1, 2, 3, 3]),
        (DuplicateLayers(layers=(0, 2, 2)), [0, 0, 1, 2, 2, 2, 3]),
    ],
)
def test_each_layer_has_the_weights_of_its_source(step, kept: list[int]) -> None:
    model = lively()
    after = step(model)
    layers = after.bert.encoder.layer
    assert len(layers) == after.config.num_hidden_layers == len(kept)
    assert all(same(layer, model.bert.encoder.layer[n]) for layer, n in zip(layers, kept, strict=True))
    assert same(after.bert.embeddings, model.bert.embeddings) and same(after.classifier, model.classifier)
    if isinstance(step, DuplicateLayers):
        # Copies with weights of their own: the original does not change with them.
        with torch.no_grad():
            layers[-2].output.dense.weight.zero_()
        assert layers[-1].output.dense.weight.abs().sum() > 0


def test_one_remaining_layer_by_hand() -> None:
    """By hand: the embeddings, then layer 2, then the pooler."""
    model = lively()
    hidden = model.bert.embeddings(**BATCH)
    expected = model.classifier(model.bert.pooler(model.bert.encoder.layer[2](hidden)))
    torch.testing.assert_close(logits(KeepLayers(layers=(2,))(model)), expected)


@pytest.mark.parametrize("eps", [1e-12, 1e-5])
@pytest.mark.parametrize(
    "step", [AddLayers(last=1), AddLayers(first=1), AddLayers(layers=(1, 1, 3)), AddLayers(every=1)]
)
def test_added_layers_keep_the_logits_after_a_norm(step: AddLayers, eps: float) -> None:
    model = lively("roberta", layer_norm_eps=eps)
    after = step(model)
    assert after.config.num_hidden_layers > 4
    tolerance = 1e-5 if eps < 1e-6 else 1e-4
    torch.testing.assert_close(logits(after), logits(model), rtol=0, atol=tolerance)


def test_added_layer_takes_the_norm_below() -> None:
    model = lively()
    after = AddLayers(layers=(1, 1))(model)
    layers, old = after.bert.encoder.layer, model.bert.encoder.layer[1].output.LayerNorm
    assert same(layers[0], model.bert.encoder.layer[0]) and same(layers[4], model.bert.encoder.layer[2])
    for layer in layers[1:3]:
        assert torch.equal(layer.output.LayerNorm.weight, torch.ones(16))
        assert torch.equal(layer.output.LayerNorm.bias, torch.zeros(16))
    assert same(layers[3].output.LayerNorm, old)
    for layer in layers[2:4]:
        assert torch.equal(layer.attention.output.LayerNorm.weight, torch.ones(16))
        assert layer.output.dense.weight.abs().sum() == layer.attention.output.dense.weight.abs().sum() == 0
        assert same(layer.intermediate, model.bert.encoder.layer[1].intermediate)


def test_an_added_layer_learns() -> None:
    after = AddLayers(last=1)(lively())
    after(**BATCH, labels=torch.tensor([0, 1])).loss.backward()
    added = after.bert.encoder.layer[-1]
    assert added.output.dense.weight.grad.abs().max() > 0 and added.attention.output.dense.weight.grad.abs().max() > 0


def test_added_layer_of_swiglu_units_returns_its_input() -> None:
    """DINOv2 giant has such units."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    config = AutoConfig.for_model("dinov2", use_swiglu_ffn=True, layerscale_value=1.0, initializer_range=0.5, **sizes)
    model = AutoModelForImageClassification.from_config(config).eval()
    pixels = torch.randn(2, 3, 16, 16)
    after = AddLayers(last=1)(model)
    assert len(after.dinov2.encoder.layer) == 3
    torch.testing.assert_close(after(pixels).logits, model(pixels).logits, rtol=0, atol=1e-5)


def test_modernbert_keeps_each_layers_kind_of_attention() -> None:
    model = lively("modernbert", depth=7)
    full, near = "full_attention", "sliding_attention"
    assert model.config.layer_types == [full, near, near, full, near, near, full]
    after = KeepLayers(layers=(0, 2, 3, 6))(model)
    assert after.config.layer_types == [full, near, full, full]
    assert [layer.attention_type for layer in after.model.layers] == after.config.layer_types
    # The first layer has no norm to copy; the added one has, and is of the same kind.
    added = AddLayers(first=1)(model)
    assert added.config.layer_types[:3] == [full, full, near]
    torch.testing.assert_close(logits(added), logits(model), rtol=0, atol=1e-5)
    for step in (DropLayers(first=1), DuplicateLayers(first=1)):
        with pytest.raises(InputError, match="modernbert's layer 0 has no norm before its attention"):
            step.update_config(model.config)


def test_convolution_next_to_the_first_layer() -> None:
    config = AutoConfig.for_model("deberta-v2", **TINY, num_hidden_layers=3, conv_kernel_size=3)
    KeepLayers(first=2).update_config(config)
    assert config.num_hidden_layers == 2
    for step in (DropLayers(first=1), AddLayers(first=1)):
        with pytest.raises(InputError, match="a convolution next to layer 0"):
            step.update_config(config)


def test_swin_layers_must_alternate_windows() -> None:
    config = AutoConfig.for_model("swin", depths=[2, 4])
    DropLayers(layers=(2, 3)).update_config(config)
    assert config.depths == [2, 2]
    DropLayers(layers=(1, 3)).update_config(config)
    assert config.depths == [1, 1]
    config = AutoConfig.for_model("swin", depths=[2, 4])
    with pytest.raises(InputError, match="layer 4 of swin would move to place 1"):
        DropLayers(layers=(3,)).update_config(config)
    with pytest.raises(InputError, match="stage 0 of swin would have no layer left"):
        KeepLayers(last=4).update_config(config)


@pytest.mark.parametrize("family", ["resnet", "efficientnet"])
def test_first_layer_of_a_stage_must_stay(family: str) -> None:
    config = AutoConfig.for_model(
        family,
        **({"depths": [2, 3]} if family == "resnet" else {"num_block_repeats": [2, 3], "depth_coefficient": 1.0}),
    )
    for step in (DropLayers(layers=(2,)), DuplicateLayers(layers=(2,)), AddLayers(layers=(2,)), KeepLayers(first=2)):
        with pytest.raises(InputError, match=f"layer 2 of {family} leads into stage 1: keep it"):
            step.update_config(config)


def test_efficientnet_multiplies_its_depths() -> None:
    """1.2 times (1, 2, 3), rounded up, is 2, 3 and 4 blocks; `depthwise_padding` lists some of them by number."""
    config = AutoConfig.for_model(
        "efficientnet", num_block_repeats=[1, 2, 3], depth_coefficient=1.2, depthwise_padding=[2, 5]
    )
    DropLayers(layers=(1, 4)).update_config(config)
    assert (config.num_block_repeats, config.depth_coefficient) == ([1, 2, 4], 1.0)
    assert config.depthwise_padding == [1, 3]
    AddLayers(layers=(2,)).update_config(config)
    assert (config.num_block_repeats, config.depthwise_padding) == ([1, 3, 4], [1, 4])


def test_added_bottlenecks_have_a_zero_last_norm() -> None:
    """The inner norms stay, so that the full new layer learns from the second step on."""
    config = AutoConfig.for_model("resnet", embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2])
    model = AutoModelForImageClassification.from_config(config).eval()
    images = torch.randn(2, 3, 32, 32)
    after = AddLayers(layers=(3,))(model)
    torch.testing.assert_close(after(images).logits, model(images).logits, rtol=0, atol=1e-6)
    norms = [layer.normalization for layer in after.resnet.encoder.stages[1].layers[2].layer]
    assert [bool(norm.weight.any()) for norm in norms] == [True, True, False]


def test_the_features_of_a_backbone_follow_the_depth() -> None:
    config = AutoConfig.for_model("dinov2", num_hidden_layers=12)
    assert config.out_features == ["stage12"]
    KeepLayers(first=3).update_config(config)
    assert (config.out_features, config.out_indices, len(config.stage_names)) == (["stage3"], [3], 4)


def test_reinitialized_layers_match_the_initialization() -> None:
    model = lively(initializer_range=0.5)
    torch.manual_seed(1)
    after = ReinitTopLayers(2, pooler=True)(model)
    before, layers = model.bert.encoder.layer, after.bert.encoder.layer
    assert same(layers[0], before[0]) and same(layers[1], before[1]) and same(after.classifier, model.classifier)
    for layer in layers[2:]:
        assert torch.equal(layer.output.LayerNorm.weight, torch.ones(16))
        assert torch.equal(layer.output.dense.bias, torch.zeros(16))
        assert layer.output.dense.weight.std().item() == pytest.approx(0.5, rel=0.2)
    assert torch.equal(after.bert.pooler.dense.bias, torch.zeros(16))
    kept = ReinitTopLayers(1)(model)
    assert same(kept.bert.pooler, model.bert.pooler) and same(kept.bert.encoder.layer[2], before[2])
