"""Trainable weights, selected by kind or by name."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.tiny import IMAGE_FAMILIES, TEXT_FAMILIES, tiny_image_checkpoint

from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import inspect_checkpoint
from hf_finetune.models.checkpoint_config import meta_classifier
from hf_finetune.models.freezing import frozen_layers, groups_from_the_top, train_only, train_top
from hf_finetune.models.loading import Loaded
from hf_finetune.models.modules import encoder_layers

CONVOLUTIONAL = ("convnext", "resnet", "efficientnet", "poolformer")


def trained(loaded: Loaded, *how: str | None) -> set[str]:
    train_only(loaded.model, *how, fresh=loaded.fresh)
    return {name for name, p in loaded.model.named_parameters() if p.requires_grad}


def test_trainable_weights_of_bert(classifier: Callable[..., Loaded]) -> None:
    """Per layer 4 + 2 linear layers and 2 norms; one norm in the embeddings; the pooler; always the head."""
    head = {"classifier.weight", "classifier.bias"}
    everything = {name for name, _ in classifier("bert").model.named_parameters()}
    assert trained(classifier("bert"), "all") == everything
    biases = trained(classifier("bert"), "biases")
    assert biases - head == {n for n in everything - head if n.endswith(".bias")}
    assert len(biases - head) == 3 * (6 + 2) + 1 + 1
    norms = trained(classifier("bert"), "norms")
    assert norms - head == {n for n in everything if "LayerNorm" in n} and len(norms - head) == 2 * (3 * 2 + 1)
    attention = trained(classifier("bert"), "attention")
    assert attention - head == {n for n in everything if ".attention." in n} and len(attention - head) == 3 * 10
    top = trained(classifier("bert"), "all", r"layer\.2\.output\.dense")
    assert top - head == {"bert.encoder.layer.2.output.dense.weight", "bert.encoder.layer.2.output.dense.bias"}


@pytest.mark.parametrize("which", ["biases", "norms", "attention"])
@pytest.mark.parametrize("family", TEXT_FAMILIES + IMAGE_FAMILIES)
def test_every_family(family: str, which: str, classifier: Callable[..., Loaded], checkpoint) -> None:
    """Some weights of every layer train, or the kind is refused, also on the meta device."""
    loaded = classifier(family)
    task = "image-classification" if family in IMAGE_FAMILIES else "text-classification"
    meta = meta_classifier(inspect_checkpoint(checkpoint(family)), task)
    assert meta is not None and all(p.is_meta for p in meta.parameters())
    if which == ("attention" if family in CONVOLUTIONAL else "biases") and family in (*CONVOLUTIONAL, "modernbert"):
        for model in (loaded.model, meta):
            with pytest.raises(InputError, match=rf"model.trainable: {family} has no {which} in its encoder"):
                train_only(model, which)
        return
    actual = trained(loaded, which)
    assert actual < {name for name, _ in loaded.model.named_parameters()}
    assert all(any(p.requires_grad for p in layer.parameters()) for layer in encoder_layers(loaded.model))
    train_only(meta, which, fresh=())
    assert {name for name, p in meta.named_parameters() if p.requires_grad} <= actual


def test_the_norms_of_convnextv2(tmp_path: Path) -> None:
    folder = tiny_image_checkpoint(tmp_path, "convnextv2")
    actual = trained(load_classifier(folder, task="image-classification", labels=["bad", "good"]), "norms")
    assert {name.split(".")[-1] for name in actual if ".grn." in name} == {"weight", "bias"}


def test_pattern_without_a_match_suggests_names(classifier: Callable[..., Loaded]) -> None:
    with pytest.raises(InputError, match=r"no weight of bert is named .*layer\.9.*close names: .*layer") as caught:
        train_only(classifier("bert").model, "all", "encoder.layer.9.output.dense.weight")
    assert "\n" not in str(caught.value)


def test_layers_below_a_pattern_are_frozen(classifier: Callable[..., Loaded], inputs) -> None:
    """They run without dropout, as with `frozen_layers`, so that their activations can be cached."""
    loaded = classifier("bert", dropout=0.5)
    trained(loaded, "all", r"layer\.2\.")
    assert frozen_layers(loaded.model) == 2
    seen: list[torch.Tensor] = []
    layer = encoder_layers(loaded.model)[1]
    layer.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
    loaded.model.train()
    for _ in range(2):
        loaded.model(**inputs("bert"))
    assert torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("family", TEXT_FAMILIES + IMAGE_FAMILIES)
def test_groups_from_the_top(family: str, classifier: Callable[..., Loaded]) -> None:
    """Head, each layer, embeddings: every weight is in one group; frozen layers have none."""
    loaded = classifier(family)
    groups = groups_from_the_top(loaded.model, loaded.fresh)
    layers = encoder_layers(loaded.model)
    assert len(groups) == len(layers) + 2
    flat = [id(p) for group in groups for p in group]
    assert sorted(flat) == sorted(id(p) for p in loaded.model.parameters())
    # PoolFormer's top layer includes the embedding before it.
    assert {id(p) for p in layers[-1].parameters()} <= {id(p) for p in groups[1]}
    assert {id(p) for p in loaded.model.classifier.parameters()} <= {id(p) for p in groups[0]}
    train_top(loaded.model, 1)
    assert len(groups_from_the_top(loaded.model, loaded.fresh)) == 2
