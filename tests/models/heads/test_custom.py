"""CustomHeadClassifier: its logits, its use by the other features, and what it saves."""

import copy

import numpy as np
import pytest
import torch
from helpers.heads import with_head
from helpers.small_runs import small_trainer
from helpers.tiny import IMAGE_FAMILIES, TEXT_FAMILIES
from torch import nn

from hf_finetune.data.inputs import Rows, columns_of
from hf_finetune.errors import InputError
from hf_finetune.evaluation.logits import predict_logits
from hf_finetune.features.frozen_layers import cache_frozen_layers
from hf_finetune.features.prefix import NoBoundary, Prefix
from hf_finetune.models import freezing
from hf_finetune.models.families import FAMILIES, tokens_before_patches
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.kernels.dropout import FastDropout, fast_dropout
from hf_finetune.models.kernels.narrow_last_layer import narrow_to_first_token
from hf_finetune.models.kernels.unpadded import use_unpadded
from hf_finetune.models.loading import Loaded
from hf_finetune.models.modules import classification_layer, encoder, head_modules, set_layer
from hf_finetune.models.peft.adapters import add_adapter, lora_config, merge
from hf_finetune.models.peft.config import Lora

KNOWN = [f for f in TEXT_FAMILIES + IMAGE_FAMILIES if FAMILIES[f].head is not None]


def pooled(classifier, family: str, **options) -> CustomHeadClassifier:
    """Return a classifier with max pooling by default, which no stock class has, and large weights."""
    model = with_head(classifier(family), **{"pooling": "max"} | options).model
    assert isinstance(model, CustomHeadClassifier)
    with torch.no_grad():
        for name, parameter in [*model.head.named_parameters(), *model.pooling.named_parameters()]:
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return model.eval()


@pytest.mark.parametrize("family", KNOWN)
def test_logits_match_the_definition(family: str, classifier, inputs) -> None:
    """Computed from the encoder's hidden states: maximum, and mean over two layers."""
    batch = inputs(family)
    flat = not FAMILIES[family].staged
    model = pooled(classifier, family, last_layers=2 if flat else 1, head="mlp", head_width=5, head_activation="relu")
    with torch.no_grad():
        output = encoder(model)(**batch, output_hidden_states=True)
        states = [output.last_hidden_state, output.hidden_states[-2]] if flat else [output.last_hidden_state]
        rows = []
        for row in range(2):
            parts = [s[row].flatten(1).T if s.dim() == 4 else s[row] for s in states]
            tokens = torch.cat(parts, -1)[tokens_before_patches(model.config) :]
            if "attention_mask" in batch:
                tokens = tokens[batch["attention_mask"][row].bool()]
            rows.append(tokens.max(0).values)
        features = torch.stack(rows)
        hidden = (features @ model.head.dense.weight.T + model.head.dense.bias).clamp(min=0)
        expected = hidden @ model.head.out.weight.T + model.head.out.bias
        actual = model(**batch).logits
    assert torch.allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
@pytest.mark.parametrize("family", [f for f in KNOWN if f in TEXT_FAMILIES])
def test_padding_changes_nothing(family: str, pooling: str, classifier, inputs) -> None:
    """A single row without a mask has the same logits as padded in a batch."""
    batch = inputs(family)
    model = pooled(classifier, family, pooling=pooling, last_layers=2)
    with torch.no_grad():
        together = model(**batch).logits
        alone = model(input_ids=batch["input_ids"][1:, :7]).logits
    assert torch.allclose(together[1:], alone, atol=1e-5)


@pytest.mark.parametrize("family", KNOWN)
def test_all_weights_train(family: str, classifier, inputs) -> None:
    """Every weight gets a gradient, except those that get none in the stock class either."""
    layers = 1 if FAMILIES[family].staged else 2
    model = pooled(classifier, family, pooling="attention", last_layers=layers, head="mlp")
    stock = classifier(family).model
    stock(**inputs(family)).logits.square().sum().backward()
    idle = {name for name, p in stock.named_parameters() if p.grad is None}
    model(**inputs(family)).logits.square().sum().backward()
    lacking = {name for name, p in model.named_parameters() if p.grad is None and p.requires_grad}
    assert lacking <= idle
    # Of so small an image these two make a map of one place, which has all the weight.
    assert (model.pooling.query.grad.abs().max() > 0) == (family not in ("convnext", "resnet"))


@pytest.mark.parametrize("family", ["bert", "modernbert", "vit"])
def test_classification_layer_is_in_the_head(family: str, classifier, inputs) -> None:
    loaded = with_head(classifier(family), pooling="attention", last_layers=2, head="mlp", head_width=3)
    model = loaded.model
    assert classification_layer(model) is model.head.out
    assert head_modules(model, loaded.fresh) == ["pooling", "head"]
    assert set(loaded.fresh) == {"pooling", "head.dense", "head.out"}
    set_layer(classification_layer(model), torch.zeros(3, 3), torch.tensor([1.0, 2.0, 3.0]))
    with torch.no_grad():
        assert model(**inputs(family)).logits.tolist() == [[1.0, 2.0, 3.0]] * 2


def test_seeds_and_the_generator(classifier) -> None:
    before = torch.get_rng_state()
    one, other, third = (with_head(classifier("bert"), pooling="mean", seed=seed).model for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.head.out.weight, other.head.out.weight)
    assert not torch.equal(one.head.out.weight, third.head.out.weight)
    assert 0.015 < one.head.out.weight.std().item() < 0.025


def test_dropout_matches_the_stock_head(classifier, inputs) -> None:
    model = with_head(classifier("bert", dropout=0.25), pooling="mean").model
    assert model.head.dropout.p == 0.25
    assert with_head(classifier("vit"), pooling="mean").model.head.dropout.p == 0.0
    with fast_dropout(model):
        assert type(model.head.dropout) is FastDropout and type(encoder(model).embeddings.dropout) is FastDropout
        assert model.config._attn_implementation == "eager_fast_dropout"
        model.train()(**inputs("bert")).logits.sum().backward()
    assert type(model.head.dropout) is nn.Dropout and model.config._attn_implementation == "eager"


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_attention_kernel_applies_to_the_encoder(family: str, classifier, inputs) -> None:
    model = pooled(classifier, family)
    with torch.no_grad():
        eager = model(**inputs(family)).logits
        model.set_attn_implementation("sdpa")
        assert encoder(model).config._attn_implementation == "sdpa"
        assert torch.allclose(model(**inputs(family)).logits, eager, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "head"), [*((f, "mlp") for f in ("bert", "modernbert", "vit", "resnet")), ("bert", "gru")]
)
def test_lora_trains_and_merges(family: str, head: str, classifier, inputs) -> None:
    """Head and pooling train in full, and the merged model has the same logits."""
    loaded = with_head(classifier(family), pooling="attention", head=head)
    body = copy.deepcopy(encoder(loaded.model).state_dict())
    adapted = add_adapter(loaded.model, lora_config(loaded.model, Lora(), fresh=loaded.fresh), loaded.fresh)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert any("pooling" in name for name in trained) and any("head" in name and "out" in name for name in trained)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        adapted(**inputs(family)).logits.square().sum().backward()
        optimizer.step()
    adapted.eval()
    merged = merge(adapted).eval()
    assert isinstance(merged, CustomHeadClassifier)
    with torch.no_grad():
        assert torch.allclose(merged(**inputs(family)).logits, adapted(**inputs(family)).logits, atol=1e-4)
    assert any(not torch.equal(body[n], t) for n, t in encoder(merged).state_dict().items())


@pytest.mark.parametrize("family", [f for f in TEXT_FAMILIES if FAMILIES[f].tokenwise_from])
def test_last_layer_is_narrowed_to_the_first_token(family: str, classifier, inputs) -> None:
    model = pooled(classifier, family, pooling="cls", head="mlp", head_width=4)
    with torch.no_grad():
        whole = model(**inputs(family)).logits
        handle = narrow_to_first_token(model)
        assert handle is not None
        assert torch.allclose(model(**inputs(family)).logits, whole, atol=1e-5)
        handle.remove()
    for options in ({"pooling": "mean"}, {"pooling": "cls", "last_layers": 2}):
        assert narrow_to_first_token(pooled(classifier, family, **options)) is None


def test_frozen_layers_above_the_lowest_read_one_run(classifier, inputs) -> None:
    batch = inputs("bert")
    for frozen, layers, enters in ((2, 1, True), (2, 2, True), (3, 1, True), (2, 3, False), (3, 2, False)):
        model = pooled(classifier, "bert", pooling="mean", last_layers=layers)
        freezing.freeze_lower(model, frozen)
        if enters:
            Prefix(model, frozen, batch).close()
        else:
            with pytest.raises(NoBoundary, match=f"reads the hidden states of layer {4 - layers}"):
                Prefix(model, frozen, batch)


def test_packed_batches_are_refused(classifier) -> None:
    model = pooled(classifier, "bert", pooling="mean")
    options = {"device": torch.device("cpu"), "autocast": None}
    assert not use_unpadded(None, model, **options)
    with pytest.raises(InputError, match=r"batching\.unpadded.*model\.pooling"):
        use_unpadded(True, model, **options)


def test_dinov2_pooling_needs_the_stock_head(classifier) -> None:
    with pytest.raises(InputError, match=r"model.pooling: Dinov2ForImageClassification concatenates CLS and the mean"):
        with_head(classifier("dinov2"), head="mlp")


def test_defaults_change_nothing(classifier) -> None:
    loaded = classifier("bert")
    assert with_head(loaded) is loaded


def test_why_not_standalone_is_one_sentence(classifier) -> None:
    model = pooled(classifier, "bert", pooling="mean", last_layers=2, head="mlp")
    assert model.why_not_standalone == (
        "BertForSequenceClassification has no head that gives the mean of the last 2 layers side by side "
        "to a hidden layer (tanh)"
    )


def test_cached_first_tokens_are_not_used_as_all_tokens(tmp_path, monkeypatch) -> None:
    """With all layers frozen, the cache of a CLS head has one token per row, which a mean head must not use."""
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    actual = {}
    for name, options in (("cls", {"pooling": "cls", "head": "linear"}), ("mean", {"pooling": "mean"})):
        trainer = small_trainer(tmp_path, "bert", rows=8)
        loaded = with_head(Loaded(trainer.model, (), ()), **options)
        freezing.freeze_body(loaded.model)
        narrow_to_first_token(loaded.model)
        rows = cache_frozen_layers(
            loaded.model,
            trainer.inputs,
            trainer.train_dataset,
            trainer.eval_dataset,
            fingerprint="the same rows",
            autocast=None,
            budget_gb=1.0,
        )
        plain = Rows(trainer.train_dataset, columns_of(trainer.inputs, labels=False))
        kept = Rows(rows.train, columns_of(rows.inputs, labels=False))
        through = predict_logits(loaded.model, kept, rows.inputs.collate)
        rows.close()
        assert np.allclose(through, predict_logits(loaded.model, plain, trainer.inputs.collate), atol=1e-5)
        actual[name] = rows.report
    assert actual["cls"]["used"] and actual["mean"]["used"] and not actual["mean"]["reused"]
