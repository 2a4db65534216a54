"""The head of every family: the layer that outputs the logits, and the modules that `--method head` trains."""

import pytest
import torch
from helpers.tiny import IMAGE_FAMILIES, TEXT_FAMILIES
from torch import nn

from hf_finetune.models.modules import classification_layer, encoder, head_modules, set_layer
from hf_finetune.models.peft.adapters import add_adapter, lora_config
from hf_finetune.models.peft.config import Lora

LAYER = {"roberta": "classifier.out_proj", "electra": "classifier.out_proj", "mpnet": "classifier.out_proj"} | {
    "resnet": "classifier.1"
}
HEAD = {
    "distilbert": ["pre_classifier", "classifier"],
    "deberta-v2": ["pooler", "classifier"],
    "modernbert": ["head", "classifier"],
    "poolformer": ["norm", "classifier"],
}


@pytest.mark.parametrize("family", TEXT_FAMILIES + IMAGE_FAMILIES)
def test_classification_layer(family: str, classifier, inputs):
    """The model returns its output, and `set_layer` changes it."""
    model = classifier(family).model
    layer = classification_layer(model)
    assert layer is model.get_submodule(LAYER.get(family, "classifier"))
    weight = torch.zeros_like(layer.weight)
    bias = torch.tensor([1.0, -2.0, 0.5])
    set_layer(classification_layer(model), weight, bias)
    with torch.no_grad():
        logits = model(**inputs(family)).logits
    assert torch.equal(logits, bias.expand(2, 3))


@pytest.mark.parametrize("family", TEXT_FAMILIES + IMAGE_FAMILIES)
def test_head_modules(family: str, classifier):
    """Every parameter is either in the encoder or in the head."""
    loaded = classifier(family)
    names = head_modules(loaded.model, loaded.fresh)
    assert names == HEAD.get(family, ["classifier"])
    inside = {p for p in encoder(loaded.model).parameters()}
    head = {p for name in names for p in loaded.model.get_submodule(name).parameters()}
    assert inside | head == set(loaded.model.parameters()) and not inside & head


@pytest.mark.parametrize("family", ["bert", "modernbert", "vit"])
def test_encoder_inside_a_peft_model(family: str, classifier):
    loaded = classifier(family)
    body = encoder(loaded.model)
    adapted = add_adapter(loaded.model, lora_config(loaded.model, Lora(), fresh=loaded.fresh), loaded.fresh, seed=0)
    assert encoder(adapted) is body is encoder(adapted.get_base_model())


def test_fresh_modules_of_the_encoder_belong_to_the_head(classifier):
    model = classifier("bert").model
    assert head_modules(model, ["bert.pooler.dense", "classifier"]) == ["bert.pooler.dense", "classifier"]
    assert head_modules(model, ["bert.pooler", "bert.pooler.dense"]) == ["bert.pooler", "classifier"]


def test_hidden_layer_as_wide_as_the_classes(classifier):
    """If RoBERTa's dense layer has as many outputs as there are classes, the last layer counts."""
    model = classifier("roberta", labels=[str(i) for i in range(32)]).model
    assert classification_layer(model) is model.classifier.out_proj


def test_set_layer_refuses_other_shapes(classifier):
    model = classifier("bert").model
    with pytest.raises(ValueError, match=r"expected weight \(3, 32\)"):
        set_layer(classification_layer(model), torch.zeros(2, 32), torch.zeros(2))
    with pytest.raises(ValueError, match="bias"):
        set_layer(classification_layer(model), torch.zeros(3, 32), torch.zeros(1))


def test_no_linear_head(classifier):
    model = classifier("bert").model
    model.classifier = nn.Identity()
    with pytest.raises(ValueError, match="no linear layer with 3 outputs"):
        classification_layer(model)
