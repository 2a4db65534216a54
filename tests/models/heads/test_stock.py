"""Heads that a stock class can express: unchanged, switched by its config, or folded into it."""

import pytest
import torch
from helpers.heads import with_head
from helpers.tiny import IMAGE_FAMILIES, TEXT_FAMILIES
from transformers import AutoModelForImageClassification

from hf_finetune.models.families import FAMILIES, stock_head
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.heads.stock import fold, switch
from hf_finetune.models.modules import classification_layer, encoder

MLP = ("bert", "roberta", "distilbert", "deberta-v2", "electra", "albert", "mpnet")


@pytest.mark.parametrize("family", TEXT_FAMILIES + IMAGE_FAMILIES)
def test_table_matches_the_stock_classes(family: str, classifier, inputs) -> None:
    """The named layers exist in the class, and pool as the table says."""
    model = classifier(family).model.eval()
    stock = stock_head(model.config)
    if stock is None:
        assert family not in FAMILIES or FAMILIES[family].head is None
        return
    if family != "resnet":
        assert model.get_submodule(stock.out) is classification_layer(model)
    if stock.kind != "mlp":
        return
    seen = []
    states = []
    model.get_submodule(stock.dense).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    classification_layer(model).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoder(model).register_forward_hook(lambda *call: states.append(call[2].last_hidden_state))
    with torch.no_grad():
        model(**inputs(family))
        assert torch.equal(seen[0].reshape(2, -1), states[0][:, 0])
        dense = model.get_submodule(stock.dense)(seen[0]).reshape(2, -1)
    act = {"tanh": torch.tanh, "gelu": torch.nn.functional.gelu, "relu": torch.relu}[stock.activation]
    assert torch.allclose(act(dense), seen[1].reshape(2, -1), atol=1e-6)


@pytest.mark.parametrize("family", MLP)
def test_stock_head_keeps_its_class(family: str, classifier) -> None:
    for options in ({"head": "mlp"}, {"pooling": "cls"}, {"pooling": "cls", "head": "mlp", "head_width": 32}):
        loaded = classifier(family)
        assert with_head(loaded, **options).model is loaded.model
    other = with_head(classifier(family), head="mlp", head_width=16).model
    assert isinstance(other, CustomHeadClassifier) and not other.folds


@pytest.mark.parametrize("family", [f for f in MLP if f != "distilbert"])
def test_linear_on_the_first_token_is_folded(family: str, classifier, inputs) -> None:
    """With hidden states as large as in pretrained networks: up to 30."""
    model = with_head(classifier(family), pooling="cls", head="linear").model.eval()
    assert isinstance(model, CustomHeadClassifier) and model.folds
    large = [p for n, p in model.named_parameters() if n.endswith(("LayerNorm.weight", "layer_norm.weight"))]
    with torch.no_grad():
        classification_layer(model).weight.normal_(std=0.3)
        classification_layer(model).bias.normal_()
        large[-1].mul_(10)
        expected = model(**inputs(family))
        folded = fold(encoder(model), model.spec, model.head)
        assert type(folded).__module__.startswith("transformers.") and not folded.training
        actual = folded(**inputs(family))
    assert expected.logits.abs().max() > 1
    assert torch.allclose(actual.logits, expected.logits, atol=1e-5)


def test_distilbert_is_not_folded(classifier) -> None:
    model = with_head(classifier("distilbert"), pooling="cls", head="linear").model
    assert isinstance(model, CustomHeadClassifier) and not model.folds


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_dinov2_folds_cls_and_mean(pooling: str, classifier, inputs) -> None:
    model = with_head(classifier("dinov2"), pooling=pooling).model.eval()
    assert isinstance(model, CustomHeadClassifier) and model.folds
    with torch.no_grad():
        expected = model(**inputs("dinov2")).logits
        actual = fold(encoder(model), model.spec, model.head)(**inputs("dinov2")).logits
    assert torch.allclose(actual, expected, atol=1e-6)


def test_modernbert_switches_pooling_by_config(classifier, inputs) -> None:
    batch = inputs("modernbert")
    by_pooling = {}
    for pooling in ("cls", "mean"):
        model = with_head(classifier("modernbert"), pooling=pooling).model.eval()
        assert type(model).__name__ == "ModernBertForSequenceClassification"
        assert model.config.classifier_pooling == pooling
        with torch.no_grad():
            states = model.model(**batch).last_hidden_state
            mask = batch["attention_mask"][:, :, None]
            read = states[:, 0] if pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
            by_pooling[pooling] = model(**batch).logits
            assert torch.allclose(by_pooling[pooling], model.classifier(model.head(read)), atol=1e-6)
    assert not torch.allclose(by_pooling["cls"], by_pooling["mean"], atol=1e-3)


def test_beit_is_switched_both_ways_and_reloads(classifier, inputs, tmp_path) -> None:
    model, batch = classifier("beit").model.eval(), inputs("beit")
    before = stock_head(model.config)
    with torch.no_grad():
        original = model(**batch).logits
        for pooling in ("cls", "mean"):
            switch(model, pooling)
            assert stock_head(model.config).pooling == pooling
            logits = model(**batch).logits
            model.save_pretrained(tmp_path / pooling)
            again = AutoModelForImageClassification.from_pretrained(tmp_path / pooling, attn_implementation="eager")
            assert torch.allclose(again.eval()(**batch).logits, logits, atol=1e-6)
            assert torch.equal(logits, original) == (before.pooling == pooling)


@pytest.mark.parametrize("family", ["vit", "deit", "swin", "convnext", "resnet", "efficientnet"])
def test_linear_image_heads_keep_their_class(family: str, classifier) -> None:
    loaded = classifier(family)
    pooling = "mean" if FAMILIES[family].staged else "cls"
    assert with_head(loaded, pooling=pooling, head="linear").model is loaded.model
