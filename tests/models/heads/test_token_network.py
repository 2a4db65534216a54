"""Networks over the tokens: states computed by hand, padding on both sides, what is built, and damaged weights."""

import math

import pytest
import torch
from helpers.heads import with_head

from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.heads.token_network import TokenNetwork, token_network_of
from hf_finetune.models.modules import head_modules


def test_a_gru_by_hand() -> None:
    """With no weights but those of the candidate state, both gates are one half."""
    network = TokenNetwork("gru", 1, 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for direction in ("", "_reverse"):
            getattr(network.layer, f"weight_ih_l0{direction}")[2] = 1.0
        states_TH = network(torch.tensor([[[1.0], [2.0]]]), None)[0][0]
    one, two = math.tanh(1.0) / 2, math.tanh(2.0) / 2
    expected = [[one, one + two / 2], [two + one / 2, two]]
    assert torch.allclose(states_TH, torch.tensor(expected))


def test_a_convolution_by_hand() -> None:
    """The sum of each token and its neighbors, none below zero."""
    network = TokenNetwork("convolution", 1, 1)
    with torch.no_grad():
        network.layer.weight.fill_(1.0)
        network.layer.bias.zero_()
        states_TH = network(torch.tensor([[[1.0], [2.0], [-4.0], [1.0]]]), None)[0][0]
    assert states_TH[:, 0].tolist() == [3.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["gru", "lstm", "convolution"])
def test_padding_on_either_side_changes_nothing(kind) -> None:
    network, states_TD = TokenNetwork(kind, 4, 3), torch.randn(5, 4)
    padding_TD = torch.full((2, 4), 7.0)
    mask_BT = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1]])
    padded_BTD = torch.stack([torch.cat([states_TD, padding_TD]), torch.cat([padding_TD, states_TD])])
    with torch.no_grad():
        (alone_BTH, _), (both_BTH, mask_BT) = network(states_TD[None], None), network(padded_BTD, mask_BT)
    assert mask_BT.tolist() == [[1, 1, 1, 1, 1, 0, 0]] * 2
    assert alone_BTH.shape == (1, 5, network.width)
    assert all(torch.allclose(row_TH[:5], alone_BTH[0], atol=1e-6) for row_TH in both_BTH)


@pytest.mark.parametrize(("kind", "width"), [("gru", 32), ("lstm", 32), ("convolution", 32)])
def test_what_is_built(kind, width: int, classifier, inputs) -> None:
    """By default the network's states are as wide as the encoder's, and their maximum is pooled; nothing is folded."""
    loaded = with_head(classifier("bert"), head=kind)
    model = loaded.model
    assert isinstance(model, CustomHeadClassifier) and model.token_network is not None
    assert (model.token_network.width, model.spec.kind, model.folds) == (width, "max", False)
    assert not model.reads_only_first_token and " over the tokens" in model.why_not_standalone
    assert head_modules(model, loaded.fresh) == ["token_network", "head"]
    assert set(loaded.fresh) == {"token_network.layer", "head.out"}
    model(**inputs("bert")).logits.square().sum().backward()
    assert all(p.grad is not None for p in model.token_network.parameters())
    again = with_head(classifier("bert"), head=kind).model
    same = zip(again.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in same), "seeded"


@pytest.mark.parametrize(
    ("kind", "name", "shape"),
    [
        ("gru", "weight_hh_l0", (0, 10**9)),
        ("lstm", "weight_hh_l0", (9, 3)),
        ("convolution", "weight", (10**9, 0, 0)),
        ("convolution", "weight", (2, 4, 5)),
    ],
)
def test_weights_of_another_shape_are_refused_before_a_layer_is_built(kind, name: str, shape: tuple) -> None:
    with pytest.raises(ValueError, match=f"network.{name} of shape"):
        token_network_of(kind, 4, {name: torch.empty(shape)})
    with pytest.raises(LookupError):
        token_network_of(kind, 4, {})
