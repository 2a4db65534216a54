"""Activation, dropout, attention kernel and the width of feed-forward networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.families import FAMILIES
from hf_finetune.models.inner_surgery import ResizeFeedForward, SetActivation, SetAttention, SetDropout
from hf_finetune.models.layer_weights import importance, layer_names, shares
from hf_finetune.models.load import Loaded

# Sites of dropout that each family's config can say.
SITES = {
    **dict.fromkeys(
        ("bert", "roberta", "electra", "distilbert", "deberta-v2", "albert"), ("hidden", "attention", "classifier")
    ),
    "modernbert": ("hidden", "attention", "embeddings", "classifier"),
    "dinov2": ("attention", "embeddings"),
    **dict.fromkeys(("mpnet", "vit", "deit", "beit", "swin"), ("hidden", "attention")),
    "efficientnet": ("hidden", "classifier"),
    **dict.fromkeys(("convnext", "resnet", "poolformer"), ()),
}
FED_FORWARD = [family for family in SITES if FAMILIES[family].up is not None]


def logits(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("family", SITES)
def test_dropout_at_each_site_and_no_other(family: str, classifier: Callable[..., Loaded], inputs) -> None:
    """Without dropout, two passes in training mode are equal; with some, at any one site, they are not."""
    model, batch = classifier(family, dropout=0.0).model, inputs(family)
    torch.testing.assert_close(logits(model.train(), batch), logits(model, batch), rtol=0, atol=0)
    for site in ("hidden", "attention", "embeddings", "classifier"):
        step = SetDropout(**{site: 0.5})
        if site not in SITES[family]:
            with pytest.raises(
                InputError, match=f"SetDropout: {site}: {family}'s config cannot say this rate; it has "
            ):
                step.refuse(AutoConfig.for_model(family))
            continue
        after = step(model)
        assert after.training and not torch.equal(logits(after, batch), logits(after, batch)), site
        before, now = model.config.to_dict(), after.config.to_dict()
        assert {name for name in now if now[name] != before.get(name)} == {FAMILIES[family].dropout[site]}


def test_the_activation_is_another_one() -> None:
    """By hand: relu of [-1, 2] is [0, 2]."""
    model = _one_neuron_a_feature()
    layer = SetActivation("relu")(model).bert.encoder.layer[0]
    x = torch.tensor([[[-1.0, 2.0]]])
    torch.testing.assert_close(layer.intermediate(x), torch.tensor([[[0.0, 2.0]]]))
    torch.testing.assert_close(model.bert.encoder.layer[0].intermediate(x), nn.functional.gelu(x))


def _one_neuron_a_feature() -> PreTrainedModel:
    from transformers import AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        "bert", vocab_size=9, hidden_size=2, num_hidden_layers=1, num_attention_heads=1, intermediate_size=2
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        model.bert.encoder.layer[0].intermediate.dense.weight.copy_(torch.eye(2))
    return model


def test_importance_by_hand() -> None:
    """Neuron 0: incoming (3, 4) and bias 0, norm 5; outgoing (1, 0), norm 1. Neuron 1: incoming (0, 0) and bias 2; (3, 4)."""
    rows = [torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]), torch.tensor([[0.0, 2.0]])]
    down = torch.tensor([[1.0, 3.0], [0.0, 4.0]])
    assert importance(rows, down).tolist() == [5.0, 10.0]
    # A gated unit has two rows, whose norms are multiplied.
    gated = torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])
    assert importance([gated], torch.tensor([[1.0], [0.0]])).tolist() == [10.0]


def test_shares_by_hand() -> None:
    """Two neurons become five: the more important one, 1, is copied first and third, 0 second."""
    source, share = shares(torch.tensor([1.0, 2.0]), 5)
    assert source.tolist() == [0, 1, 1, 0, 1]
    torch.testing.assert_close(share, torch.tensor([1 / 3, 1 / 6, 2 / 6, 2 / 3, 3 / 6]))


def test_narrowing_keeps_the_important_neurons() -> None:
    model = _one_neuron_a_feature()
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        layer.output.dense.weight.copy_(torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    after = ResizeFeedForward(width=1)(model)
    assert after.config.intermediate_size == 1
    narrow = after.bert.encoder.layer[0]
    assert narrow.intermediate.dense.weight.tolist() == [[0.0, 1.0]]
    assert narrow.output.dense.weight.tolist() == [[2.0], [2.0]]


@pytest.mark.parametrize("family", FED_FORWARD)
def test_neurons_that_nobody_listens_to_can_go(family: str, classifier: Callable[..., Loaded], inputs) -> None:
    model, batch = classifier(family).model, inputs(family)
    names = FAMILIES[family]
    with torch.no_grad():
        for layer in layer_names(model, names, model.state_dict()):
            model.get_submodule(f"{layer}.{names.down}").weight[:, ::2] = 0
    after = ResizeFeedForward(ratio=0.5)(model)
    torch.testing.assert_close(logits(after, batch), logits(model, batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("new", ["zero", "split"])
def test_new_neurons_learn_and_do_not_stay_alike(new: str, classifier: Callable[..., Loaded], inputs) -> None:
    model = ResizeFeedForward(ratio=2.0, new=new)(classifier("bert").model)
    model(**inputs("bert"), labels=torch.tensor([0, 1])).loss.backward()
    layer = model.bert.encoder.layer[2]
    outgoing, incoming = layer.output.dense.weight.grad[:, 64:], layer.intermediate.dense.weight.grad
    assert (outgoing.norm(dim=0) > 0).all()
    if new == "split":
        order = shares(torch.arange(64.0), 128)
        assert order[0][64] == 63
        assert (incoming[:64].norm(dim=1) > 0).all()
        sources = [
            int(n) for n in (layer.intermediate.dense.weight[64:] @ layer.intermediate.dense.weight[:64].T).argmax(1)
        ]
        torch.testing.assert_close(incoming[64:], 2 * incoming[sources])


@pytest.mark.parametrize(
    ("family", "step", "error"),
    [
        ("bert", SetActivation("gleu"), "activation: 'gleu' is none of transformers'; did you mean 'gelu'?"),
        ("dinov2", SetActivation("relu"), "this dinov2 has SwiGLU units, which its config fixes; leave it out"),
        ("dinov2", ResizeFeedForward(ratio=2.0), "this dinov2 has SwiGLU units"),
        ("bert", SetDropout(), "expected a rate for one of hidden, attention, embeddings, classifier, got none"),
        ("bert", SetDropout(hidden=1.0), "hidden: expected at least 0 and below 1, got 1.0"),
        ("convnext", SetDropout(hidden=0.1), "convnext's config cannot say this rate; it has no dropout"),
        ("mpnet", SetAttention("sdpa"), "mpnet has no sdpa attention; expected eager"),
        ("bert", ResizeFeedForward(), "expected width or ratio, one of them"),
        ("bert", ResizeFeedForward(width=8, ratio=2.0), "expected width or ratio, one of them"),
        (
            "bert",
            ResizeFeedForward(ratio=0.0001),
            "expected a whole number of neurons, at least 1, got 0.3072 from ratio",
        ),
        ("swin", ResizeFeedForward(width=8), "swin's stages differ in width; give ratio"),
        ("poolformer", ResizeFeedForward(width=8), "poolformer's stages differ in width; give ratio"),
        ("poolformer", ResizeFeedForward(ratio=0.01), "got 2.56 from ratio 0.01"),
        ("resnet", ResizeFeedForward(ratio=2.0), "resnet's config does not say how wide"),
        ("convnext", ResizeFeedForward(ratio=2.0), "convnext's config does not say how wide"),
        ("vit", ResizeFeedForward(width=0), "at least 1, got 0 from width 0"),
    ],
)
def test_refused(family: str, step, error: str) -> None:
    config = AutoConfig.for_model(family, **({"use_swiglu_ffn": True} if family == "dinov2" else {}))
    with pytest.raises(InputError) as caught:
        step.refuse(config)
    assert error in str(caught.value)


def test_a_width_that_is_a_ratio_must_be_a_whole_one() -> None:
    with pytest.raises(InputError, match="expected a multiple of 768 for dinov2, got 1000; give 768 or 1536"):
        ResizeFeedForward(width=1000).refuse(AutoConfig.for_model("dinov2"))
