"""Freezing by layers, the body, and BatchNorm."""

import copy
import gc
import os

import pytest
import torch
from helpers.tiny import IMAGE_FAMILIES, TEXT_FAMILIES
from torch import nn
from transformers import AutoModelForImageClassification

from hf_finetune.errors import InputError
from hf_finetune.models.freezing import (
    freeze_batch_norm,
    freeze_body,
    freeze_lower,
    frozen_layers,
    lower_part,
    train_top,
    trainable_parameters,
)
from hf_finetune.models.modules import encoder, encoder_layers
from hf_finetune.models.peft.adapters import add_adapter, lora_config
from hf_finetune.models.peft.config import Lora

FAMILIES = TEXT_FAMILIES + IMAGE_FAMILIES
LAYERS = {"albert": 1, "swin": 2, "convnext": 4, "resnet": 4, "efficientnet": 4, "poolformer": 5}


def step(model: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """One plain gradient step on everything that trains."""
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = nn.functional.cross_entropy(model(**batch).logits, torch.tensor([0, 2]))
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        if gradient is not None:
            parameter.data -= gradient


def outputs_of(layers: list[nn.Module], model: nn.Module, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the output of each layer for a batch, in the order of the calls."""
    seen: list[torch.Tensor] = []

    def record(module, args, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(record) for layer in layers]
    with torch.no_grad():
        model.eval()(**batch)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_run_bottom_to_top(family: str, classifier, inputs):
    model = classifier(family).model
    layers = encoder_layers(model)
    assert len(layers) == LAYERS.get(family, 3)
    order: list[int] = []
    for index, layer in enumerate(layers):
        layer.register_forward_hook(lambda module, args, output, index=index: order.append(index))
    with torch.no_grad():
        model(**inputs(family))
    # ALBERT runs its one group of layers several times.
    assert order == ([0, 0, 0] if family == "albert" else list(range(len(layers))))


@pytest.mark.parametrize("family", FAMILIES)
def test_freeze_lower_keeps_the_output_of_the_lower_layers(family: str, classifier, inputs):
    """After a training step, frozen layers have the same outputs; higher layers and the head have changed."""
    batch = inputs(family)
    model = classifier(family, dropout=0.0).model
    freeze_batch_norm(model)
    layers = encoder_layers(model)
    frozen = len(layers) - 1
    freeze_lower(model, frozen)
    before = outputs_of(layers, model, batch)
    head = copy.deepcopy(model.classifier.state_dict())
    step(model, batch)
    after = outputs_of(layers, model, batch)
    for old, new in zip(before[:frozen], after[:frozen], strict=True):
        assert torch.equal(old, new)
    assert not torch.equal(before[-1], after[-1])
    assert any(not torch.equal(head[k], v) for k, v in model.classifier.state_dict().items())


@pytest.mark.parametrize("family", ["bert", "modernbert", "vit", "beit", "swin", "deberta-v2"])
def test_freezing_all_layers_spares_later_modules(family: str, classifier):
    model = classifier(family).model
    freeze_lower(model, len(encoder_layers(model)))
    left = {
        n.split(".")[0 if "." not in n else 1]
        for n, p in encoder(model).named_parameters(prefix="x")
        if p.requires_grad
    }
    expected = {"bert": {"pooler"}, "modernbert": {"final_norm"}, "vit": {"layernorm"}, "beit": {"pooler"}}
    assert left == expected.get(family, {"layernorm"} if family == "swin" else set())


def test_freeze_lower_counts(classifier):
    model = classifier("bert").model
    everything = trainable_parameters(model)
    assert everything[0] == everything[1] == sum(p.numel() for p in model.parameters())
    freeze_lower(model, 0)
    assert trainable_parameters(model) == everything
    freeze_lower(model, 2)
    layer = sum(p.numel() for p in encoder_layers(model)[2].parameters())
    # Above the second layer: one layer, pooler 32 x 32 + 32, classifier 3 x 32 + 3.
    assert trainable_parameters(model) == (layer + 1056 + 99, everything[1])
    with pytest.raises(InputError, match=r"frozen_layers: 4, but bert has 3 layers"):
        freeze_lower(model, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_train_top(family: str, classifier):
    """The highest layers, later modules and the head train; with all layers only the embeddings are frozen."""
    for k in range(len(encoder_layers(classifier(family).model)) + 1):
        model = classifier(family).model
        layers = encoder_layers(model)
        train_top(model, k)
        assert frozen_layers(model) == len(layers) - k
        training = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
        assert training == [False] * (len(layers) - k) + [True] * k
        assert all(p.requires_grad for p in model.classifier.parameters())
        embeddings = next(encoder(model).children())
        if family == "poolformer":
            embeddings = embeddings.patch_embeddings[0]
        assert not any(p.requires_grad for p in embeddings.parameters())
    with pytest.raises(InputError, match=rf"top_layers: {len(layers) + 1}, but {family} has {len(layers)} layer"):
        train_top(model, len(layers) + 1)


@pytest.mark.parametrize(
    ("family", "k", "trained"),
    [
        ("efficientnet", 0, {"encoder.top_conv", "encoder.top_bn"}),
        ("poolformer", 2, {"encoder.patch_embeddings.3", "encoder.block.2.1", "encoder.block.3.0"}),
        # The first layer of stage 2 trains with the embedding before it.
        ("poolformer", 3, {f"encoder.{n}" for n in ("patch_embeddings.2", "patch_embeddings.3", "block.2", "block.3")}),
    ],
)
def test_downsampling_and_later_modules(family: str, k: int, trained: set[str], classifier):
    model = classifier(family).model
    train_top(model, k)
    names = {name for name, parameter in encoder(model).named_parameters() if parameter.requires_grad}
    assert names == {n for n, _ in encoder(model).named_parameters() if any(n.startswith(f"{t}.") for t in trained)}
    assert names


@pytest.mark.parametrize("freeze", [lambda m: train_top(m, 1), lambda m: freeze_lower(m, 2), freeze_body])
@pytest.mark.parametrize("family", ["bert", "deberta-v2", "swin", "beit"])
def test_frozen_layers_have_no_dropout(family: str, freeze, classifier, inputs):
    """In training they have the outputs of evaluation mode; trained layers have dropout."""
    model, batch = classifier(family, dropout=0.5).model, inputs(family)
    freeze(model)
    layers = encoder_layers(model)
    expected = outputs_of(layers, model, batch)
    model.train()
    seen: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for layer in layers
    ]
    model(**batch)
    for hook in hooks:
        hook.remove()
    frozen = frozen_layers(model)
    assert frozen > 0
    for index, (old, new) in enumerate(zip(expected, seen, strict=True)):
        assert torch.equal(old, new) == (index < frozen)
    assert model.training and layers[-1].training == (frozen < len(layers))


def test_frozen_layers_counts_fully_frozen_ones(classifier):
    model = classifier("bert").model
    assert frozen_layers(model) == 0
    for parameter in encoder_layers(model)[0].parameters():
        parameter.requires_grad_(False)
    assert frozen_layers(model) == 0, "the embeddings train"
    freeze_lower(model, 2)
    assert frozen_layers(model) == 2
    names = set(lower_part(model, 2))
    assert "encoder.layer.1.output.dense.weight" in names and "embeddings.word_embeddings.weight" in names
    assert not any(n.startswith(("encoder.layer.2.", "pooler.")) for n in names)


def test_freeze_lower_freezes_adapters_too(classifier):
    loaded = classifier("bert")
    adapted = add_adapter(loaded.model, lora_config(loaded.model, Lora(), fresh=loaded.fresh), loaded.fresh)
    freeze_lower(adapted, 2)
    training = {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert any(".layer.2." in n for n in training) and not any(".layer.1." in n for n in training)
    assert any("classifier" in n for n in training)


def test_freeze_body(classifier):
    loaded = classifier("deberta-v2")
    freeze_body(loaded.model, loaded.fresh)
    training = {n for n, p in loaded.model.named_parameters() if p.requires_grad}
    assert training == {"pooler.dense.weight", "pooler.dense.bias", "classifier.weight", "classifier.bias"}
    bert = classifier("bert").model
    freeze_body(bert, ["bert.pooler.dense"])
    assert trainable_parameters(bert)[0] == 1056 + 99


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: b.clone() for n, b in model.named_buffers() if "running" in n or "batches" in n}


def test_batch_norm_statistics_change_unless_frozen(classifier, inputs):
    model = classifier("resnet").model
    before = statistics(model)
    step(model, inputs("resnet"))
    assert any(not torch.equal(before[n], b) for n, b in statistics(model).items())


def test_batch_norm_stays_frozen(classifier, inputs, tmp_path):
    """After train(), in a copy, and after save and load; scale and shift still train."""
    batch = inputs("resnet")
    model = classifier("resnet").model
    reference = copy.deepcopy(model).eval()
    before = statistics(model)
    assert freeze_batch_norm(model) == len(before) / 3
    assert freeze_batch_norm(model) == 0
    copied = copy.deepcopy(model)
    for variant in (model, copied):
        variant.train()
        with torch.no_grad():
            assert torch.equal(variant(**batch).logits, reference(**batch).logits)
    scale = model.resnet.embedder.embedder.normalization.weight.clone()
    step(model, batch)
    assert not torch.equal(scale, model.resnet.embedder.embedder.normalization.weight)
    assert all(torch.equal(before[n], b) for n, b in statistics(model).items())

    model.save_pretrained(tmp_path)
    reloaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(reloaded(**batch).logits, model(**batch).logits)


def test_batch_norm_stays_frozen_under_ddp(classifier, inputs, tmp_path):
    model = classifier("resnet").model
    freeze_batch_norm(model)
    before = statistics(model)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model).train()
        parallel(**inputs("resnet")).logits.sum().backward()
        # The last owner of the group joins its threads. A reducer does so while it holds the interpreter lock, for which
        # they may wait (pytorch/pytorch#56297); `destroy_process_group` does not hold it.
        del parallel
        gc.collect()
    finally:
        torch.distributed.destroy_process_group()
    assert all(torch.equal(before[n], b) for n, b in statistics(model).items())
    assert os.environ.get("MASTER_ADDR") is None


def test_gradients_do_not_depend_on_the_split(classifier):
    """Only with fixed statistics do two half batches give the gradient of the full batch."""
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(4, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2, 0])

    def gradient(model: nn.Module, parts: list[slice]) -> torch.Tensor:
        model.zero_grad()
        for part in parts:
            logits = model.train()(pixel_values=images[part]).logits
            (nn.functional.cross_entropy(logits, labels[part]) / len(parts)).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    model = classifier("resnet").model
    whole, halves = [slice(0, 4)], [slice(0, 2), slice(2, 4)]
    assert not torch.allclose(gradient(model, whole), gradient(model, halves), atol=1e-3)
    freeze_batch_norm(model)
    torch.testing.assert_close(gradient(model, whole), gradient(model, halves), atol=1e-6, rtol=1e-4)
