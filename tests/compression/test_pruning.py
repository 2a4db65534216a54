"""Pruning steps on tiny checkpoints of every family, and their parts by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.models import logits, randomized
from helpers.tiny import IMAGE_FAMILIES, TEXT_FAMILIES, tiny_image_checkpoint, tiny_text_checkpoint
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.compression.pruning import allocation
from hf_finetune.compression.pruning.allocation import allocate
from hf_finetune.compression.pruning.config import Importance
from hf_finetune.compression.pruning.feed_forward import PruneFeedForward
from hf_finetune.compression.pruning.heads import PruneHeads
from hf_finetune.compression.pruning.hidden_width import PruneHiddenWidth
from hf_finetune.compression.pruning.layers import PruneLayers, layer_changes
from hf_finetune.compression.pruning.linear import augmented_weight, with_weights
from hf_finetune.compression.pruning.networks import why_not_stock
from hf_finetune.compression.pruning.reconstruction import InputProducts, best_groups, solved_weights
from hf_finetune.compression.pruning.unstructured import compressed_bytes, with_zeros
from hf_finetune.compression.steps import Step
from hf_finetune.models.surgery.operations import AddLayers

LABELS = ["bad", "good", "so-so"]


def network(folder: Path, family: str, **config) -> PreTrainedModel:
    text = family in TEXT_FAMILIES
    made = (tiny_text_checkpoint if text else tiny_image_checkpoint)(folder / family, family, **config)
    task = "text-classification" if text else "image-classification"
    return randomized(load_classifier(made, task=task, labels=LABELS).model)


def batches(model: PreTrainedModel) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        return [{"pixel_values": torch.randn(4, 3, 32, 32, generator=generator)}]
    ids = torch.randint(6, 100, (6, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[:3, 9:] = 0
    return [{"input_ids": ids, "attention_mask": mask}]


def pruned(step: PruneFeedForward | PruneHeads | PruneLayers, model: PreTrainedModel) -> PreTrainedModel:
    """The result, after checks: the model itself stays as it was, and the config builds the result."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = model.config.to_dict()
    result = step.pruned(model, batches(model))
    assert model.config.to_dict() == config
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return result


def correlated(rows: int = 200, inputs: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(inputs, inputs, generator=generator) + torch.eye(inputs)
    return torch.randn(rows, inputs, generator=generator) @ mixing


def products_of(layer: nn.Linear, *parts: torch.Tensor, ridge: float = 0.0) -> torch.Tensor:
    products = InputProducts(layer)
    for part in parts:
        products.add(part)
    return products.damped(ridge)


def test_what_another_input_says_costs_nothing() -> None:
    """The third input is the sum of the others, plus 1."""
    layer = nn.Linear(3, 2)
    first = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    inputs = torch.cat([first, first.sum(1, keepdim=True) + 1], 1)
    products = products_of(layer, inputs[:20], inputs[20:], ridge=1e-9)
    weight = augmented_weight(layer)
    kept = best_groups(weight, products, 2, groups=3, size=1)
    smaller = with_weights(layer, solved_weights(weight, products, torch.cat([kept, torch.tensor([3])])))
    torch.testing.assert_close(smaller(inputs[:, kept]), layer(inputs), rtol=0, atol=1e-4)


def test_solved_weights_are_least_squares() -> None:
    layer, inputs = nn.Linear(6, 4, bias=False), correlated()
    kept = torch.tensor([0, 2, 5])
    solved = solved_weights(augmented_weight(layer), products_of(layer, inputs), kept)
    expected = torch.linalg.lstsq(inputs[:, kept].double(), layer(inputs).double()).solution.T
    torch.testing.assert_close(solved, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2])
def test_the_first_group_removed_is_the_cheapest(size: int) -> None:
    """The same as trying every group, and solving for the weights of the others."""
    torch.manual_seed(1)
    layer, inputs = nn.Linear(6, 4).requires_grad_(False), correlated()
    weight, products, groups = augmented_weight(layer), products_of(layer, inputs), 6 // size

    def error(group: int) -> float:
        kept = torch.tensor([n for n in range(7) if n == 6 or n // size != group])
        smaller = with_weights(layer, solved_weights(weight, products, kept))
        return float((smaller(inputs[:, kept[:-1]]) - layer(inputs)).square().sum())

    cheapest = min(range(groups), key=error)
    kept = best_groups(weight, products, groups - 1, groups=groups, size=size)
    assert kept.tolist() == [group for group in range(groups) if group != cheapest]


@pytest.mark.parametrize("family", [*TEXT_FAMILIES, *IMAGE_FAMILIES])
def test_feed_forward_of_every_family(family: str, tmp_path: Path) -> None:
    model = network(tmp_path, family)
    classifier: Any = SimpleNamespace(model=model, files={})
    step = PruneFeedForward(share=0.5)
    if (why := step.refusal(classifier)) is not None:
        # ConvNeXt, ResNet, EfficientNet and PoolFormer; DINOv2's config has whole multiples of its width.
        assert "no field" in why or "convolutions" in why, why
        return
    batch = batches(model)[0]
    result = pruned(step, model)
    assert why_not_stock(result) is None
    before, after = (sum(p.numel() for p in each.parameters()) for each in (model, result))
    assert after < before
    expected = logits(model, batch)
    plain = pruned(replace(step, importance="magnitude", reconstruct=False), model)
    lost, lost_plain = ((logits(each, batch) - expected).square().mean() for each in (result, plain))
    assert lost < lost_plain


def test_widths_of_single_layers(tmp_path: Path) -> None:
    model = network(tmp_path, "bert")
    step = PruneFeedForward(widths=(64, 8, 32))
    result = pruned(step, model)
    assert [layer.intermediate.dense.out_features for layer in result.bert.encoder.layer] == [64, 8, 32]
    assert "layer.1.intermediate.dense.weight has shape (8, 32)" in str(why_not_stock(result))
    torch.testing.assert_close(
        result.bert.encoder.layer[0].output.dense.weight,
        model.bert.encoder.layer[0].output.dense.weight,
        atol=1e-3,
        rtol=0,
    )
    classifier: Any = SimpleNamespace(model=model, files={})
    assert PruneFeedForward(widths=(8, 8)).refusal(classifier) == (
        "expected widths of 3 layers up to [64, 64, 64], got [8, 8]"
    )


@pytest.mark.parametrize("importance", ["reconstruction", "magnitude", "activation", "taylor", "fisher"])
def test_a_neuron_and_a_head_without_effect_go_first(importance: Importance, tmp_path: Path) -> None:
    model = network(tmp_path, "bert")
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.output.dense.weight[:, 5] = 0
            layer.attention.output.dense.weight[:, 8:16] = 0
    batch = batches(model)[0]
    for step in (
        PruneFeedForward(share=1 / 64, importance=importance),
        PruneHeads(share=0.25, importance=importance, reconstruct=False),
    ):
        result = pruned(step, model)
        torch.testing.assert_close(logits(result, batch), logits(model, batch), rtol=0, atol=2e-3)


@pytest.mark.parametrize("family", [*TEXT_FAMILIES, *IMAGE_FAMILIES])
def test_heads_of_every_family(family: str, tmp_path: Path) -> None:
    model = network(tmp_path, family)
    classifier: Any = SimpleNamespace(model=model, files={})
    if (why := PruneHeads().refusal(classifier)) is not None:
        assert "has more than query, key and value" in why
        assert family not in ("bert", "roberta", "distilbert", "vit")
        return
    result = pruned(PruneHeads(), model)
    assert torch.isfinite(logits(result, batches(model)[0])).all()
    if family in ("vit", "deit", "dinov2"):
        assert why_not_stock(result) is None
        assert result.config.num_attention_heads == 2 and result.config.head_dim == 8
    else:
        assert "has shape (16, 32)" in str(why_not_stock(result))
        assert result.config.to_dict() == model.config.to_dict()


@pytest.mark.parametrize("importance", ["logits", "similarity"])
def test_a_layer_that_does_nothing_is_dropped(importance: Any, tmp_path: Path) -> None:
    model = AddLayers(layers=(0,))(network(tmp_path, "vit"))
    changes = layer_changes(model, batches(model))
    assert changes[1] == min(changes) and changes[1] < 1e-6
    result = pruned(PruneLayers(importance=importance), model)
    assert result.config.num_hidden_layers == 3
    torch.testing.assert_close(logits(result, batches(model)[0]), logits(model, batches(model)[0]), rtol=0, atol=1e-5)


def test_what_pruning_refuses(tmp_path: Path) -> None:
    def why(step: Step, family: str, **config: Any) -> str | None:
        return step.refusal(SimpleNamespace(model=network(tmp_path, family, **config), files={}))  # type: ignore[arg-type]

    assert why(PruneLayers(drop=3), "bert") == "it has 3 layers, of which 2 can be dropped at most"
    assert why(PruneLayers(), "albert") == "the layers of albert share their weights"
    assert why(PruneHiddenWidth(share=0.05), "bert") == "expected fewer than 32 and a multiple of the 4 heads, got 32"
    assert why(PruneHiddenWidth(), "bert") is None
    assert str(why(PruneHiddenWidth(), "swin")).endswith("got swin; leave it out")
    assert str(why(PruneHeads(), "regnet")).endswith("got regnet")


def test_zero_weights_save_bytes_only_where_they_are_compressed(tmp_path: Path) -> None:
    model = network(tmp_path, "bert")
    sparse = with_zeros(model, 0.75)
    weights = [m.weight for m in sparse.bert.modules() if isinstance(m, nn.Linear)]
    zeros, size = sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
    assert zeros / size == pytest.approx(0.75, abs=0.001)
    assert sum(p.numel() for p in sparse.parameters()) == sum(p.numel() for p in model.parameters())
    assert compressed_bytes(sparse) < 0.7 * compressed_bytes(model)


def test_time_is_saved_where_it_costs_least() -> None:
    """Two layers, three widths of 4, 2 and 1 ms: the second layer gives for little what the first one would not."""
    errors, milliseconds = np.array([[0.0, 9.0, 10.0], [0.0, 1.0, 1.0]]), [4.0, 2.0, 1.0]
    assert allocate(errors, milliseconds, 8.0) == [0, 0]
    assert allocate(errors, milliseconds, 5.0) == [0, 2]
    # The narrowest width of the first layer saves more for its error than the middle one.
    assert allocate(errors, milliseconds, 4.0) == [2, 2]
    assert allocate(errors, milliseconds, 0.5) == [2, 2]


def test_neurons_without_effect_go_from_their_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "feed_forward_ms", lambda hidden, neurons: float(neurons))
    model = network(tmp_path, "bert")
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight.zero_()
    assert allocation.AllocateFeedForward(share=0.25).widths(model, batches(model)) == (64, 16, 64)
