"""The width of feed-forward networks, and of the whole network."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.models import logits
from helpers.tiny import IMAGE_FAMILIES, TEXT_FAMILIES, one_layer_bert, tiny_image_checkpoint, tiny_text_checkpoint
from torch import nn
from transformers import AutoConfig

from hf_finetune.errors import InputError
from hf_finetune.models.families import FAMILIES, PROJECTIONS, residual_outputs
from hf_finetune.models.loading import Loaded
from hf_finetune.models.surgery.feed_forward import ResizeFeedForward, importance, split_neurons
from hf_finetune.models.surgery.hidden_width import ONE_WIDTH, NarrowHidden
from hf_finetune.models.surgery.layers import AddLayers
from hf_finetune.models.surgery.narrowing import low_rank_factors
from hf_finetune.models.surgery.rebuild import layer_names

FED_FORWARD = [family for family in (*TEXT_FAMILIES, *IMAGE_FAMILIES) if FAMILIES[family].feed_forward is not None]
NARROW = [family for family in ONE_WIDTH if family in (*TEXT_FAMILIES, *IMAGE_FAMILIES)]


def test_importance_by_hand() -> None:
    """Neuron 0: incoming (3, 4), bias 0, norm 5; outgoing (1, 0), norm 1. Neuron 1: incoming (0, 0), bias 2; (3, 4)."""
    rows = [torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]), torch.tensor([[0.0, 2.0]])]
    down = torch.tensor([[1.0, 3.0], [0.0, 4.0]])
    assert importance(rows, down).tolist() == [5.0, 10.0]
    # The norms of the two rows of a gated unit are multiplied.
    gated = torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])
    assert importance([gated], torch.tensor([[1.0], [0.0]])).tolist() == [10.0]


def test_split_neurons_by_hand() -> None:
    """Two neurons become five: the more important one, 1, is copied first and third, 0 second."""
    source, share = split_neurons(torch.tensor([1.0, 2.0]), 5)
    assert source.tolist() == [0, 1, 1, 0, 1]
    torch.testing.assert_close(share, torch.tensor([1 / 3, 1 / 6, 2 / 6, 2 / 3, 3 / 6]))


def test_narrowing_keeps_the_important_neurons() -> None:
    model = one_layer_bert()
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        layer.output.dense.weight.copy_(torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    after = ResizeFeedForward(width=1)(model)
    assert after.config.intermediate_size == 1
    narrow = after.bert.encoder.layer[0]
    assert narrow.intermediate.dense.weight.tolist() == [[0.0, 1.0]]
    assert narrow.output.dense.weight.tolist() == [[2.0], [2.0]]


@pytest.mark.parametrize("family", FED_FORWARD)
def test_unread_neurons_are_removed_first(family: str, classifier: Callable[..., Loaded], inputs) -> None:
    model, batch = classifier(family).model, inputs(family)
    names = FAMILIES[family]
    with torch.no_grad():
        for layer in layer_names(model, model.state_dict()):
            model.get_submodule(f"{layer}.{names.feed_forward.down}").weight[:, ::2] = 0
    after = ResizeFeedForward(ratio=0.5)(model)
    torch.testing.assert_close(logits(after, batch), logits(model, batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("new", ["zero", "split"])
def test_new_neurons_learn_and_diverge(new: str, classifier: Callable[..., Loaded], inputs) -> None:
    model = ResizeFeedForward(ratio=2.0, new=new)(classifier("bert").model)
    model(**inputs("bert"), labels=torch.tensor([0, 1])).loss.backward()
    layer = model.bert.encoder.layer[2]
    outgoing, incoming = layer.output.dense.weight.grad[:, 64:], layer.intermediate.dense.weight.grad
    assert (outgoing.norm(dim=0) > 0).all()
    if new == "split":
        order = split_neurons(torch.arange(64.0), 128)
        assert order[0][64] == 63
        assert (incoming[:64].norm(dim=1) > 0).all()
        sources = [
            int(n) for n in (layer.intermediate.dense.weight[64:] @ layer.intermediate.dense.weight[:64].T).argmax(1)
        ]
        torch.testing.assert_close(incoming[64:], 2 * incoming[sources])


def test_low_rank_factors_by_hand() -> None:
    """diag(3, 1) is the product of itself with the identity: its best approximation of rank 1 is diag(3, 0)."""
    a, b = low_rank_factors(torch.diag(torch.tensor([3.0, 1.0]))[None], torch.eye(2)[None], 1)
    assert a.shape == b.shape == (1, 1, 2)
    torch.testing.assert_close(a[0].T @ b[0], torch.diag(torch.tensor([3.0, 0.0])))
    a, b = torch.randn(2, 4, 6), torch.randn(2, 4, 5)
    whole = low_rank_factors(a, b, 4)
    torch.testing.assert_close(whole[0].mT @ whole[1], a.mT @ b)


@pytest.mark.parametrize("family", NARROW)
def test_unread_features_are_removed_first(family: str, inputs, tmp_path: Path) -> None:
    """Every second feature is a copy of its neighbor that no weight reads, and half of each head's features are zero."""
    text = family in TEXT_FAMILIES
    make, fields = (tiny_text_checkpoint, {"embedding_size": 32}) if text else (tiny_image_checkpoint, {})
    folder = make(tmp_path, family, **(fields if family == "electra" else {}))
    task = "text-classification" if text else "image-classification"
    model = load_classifier(folder, task=task, labels=["bad", "good", "so-so"]).model.eval()
    shapes = {name: weight.shape for name, weight in NarrowHidden(ratio=0.5)(model).named_parameters()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
            linear = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear)
            for dim in range(weight.ndim):
                features = weight.movedim(dim, 0)
                if weight.shape[dim] == shapes[name][dim]:
                    continue
                if dim == 0 and name.split(".")[-2] in chain(*PROJECTIONS):
                    features.unflatten(0, (4, 8))[:, 4:] = 0
                elif not (linear and dim == 1):
                    features[1::2] = features[::2]
                elif residual_outputs(model.config)[0] not in name:
                    features[1::2] = 0
    after, batch = NarrowHidden(ratio=0.5)(model), inputs(family)
    assert after.config.hidden_size == 16 and after.num_parameters() < 0.6 * model.num_parameters()
    torch.testing.assert_close(logits(after, batch), logits(model, batch), rtol=0, atol=1e-5)


def test_zero_layers_can_still_learn(classifier: Callable[..., Loaded], inputs) -> None:
    model = NarrowHidden(ratio=0.5)(AddLayers(last=1)(classifier("bert").model))
    attention = model.bert.encoder.layer[3].attention
    assert not attention.output.dense.weight.any() and attention.self.value.weight.any()
    model(**inputs("bert"), labels=torch.tensor([0, 1])).loss.backward()
    assert attention.output.dense.weight.grad.any()


def test_an_encoder_loaded_from_a_narrow_classifier_has_a_narrow_pooler(classifier: Callable[..., Loaded]) -> None:
    assert NarrowHidden(width=16)(classifier("vit").model).config.pooler_output_size == 16


def test_electra_with_narrower_embeddings(classifier: Callable[..., Loaded], inputs) -> None:
    model = classifier("electra").model
    after = NarrowHidden(width=8)(model)
    assert after.electra.embeddings_project.weight.shape == (8, 16)
    assert torch.equal(after.electra.embeddings.word_embeddings.weight, model.electra.embeddings.word_embeddings.weight)
    assert torch.isfinite(logits(after, inputs("electra"))).all()
    with pytest.raises(InputError, match="this electra has embeddings of 16 features; expected another width"):
        NarrowHidden(width=16)(model)


def test_width_must_divide_the_feed_forward() -> None:
    config = AutoConfig.for_model("dinov2")
    NarrowHidden(width=384).update_config(config)
    assert (config.hidden_size, config.mlp_ratio) == (384, 8)
