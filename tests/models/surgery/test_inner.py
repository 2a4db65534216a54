"""Activation, dropout and attention kernel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.tiny import one_layer_bert
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.families import FAMILIES
from hf_finetune.models.loading import Loaded
from hf_finetune.models.surgery.inner import SetActivation, SetAttention, SetDropout

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
    model = one_layer_bert()
    layer = SetActivation("relu")(model).bert.encoder.layer[0]
    x = torch.tensor([[[-1.0, 2.0]]])
    torch.testing.assert_close(layer.intermediate(x), torch.tensor([[[0.0, 2.0]]]))
    torch.testing.assert_close(model.bert.encoder.layer[0].intermediate(x), nn.functional.gelu(x))


@pytest.mark.parametrize(
    ("family", "step", "error"),
    [
        ("bert", SetActivation("gleu"), "activation: 'gleu' is none of transformers'; did you mean 'gelu'?"),
        ("dinov2", SetActivation("relu"), "this dinov2 has SwiGLU units, which its config fixes; leave it out"),
        ("bert", SetDropout(), "expected a rate for one of hidden, attention, embeddings, classifier, got none"),
        ("bert", SetDropout(hidden=1.0), "hidden: expected at least 0 and below 1, got 1.0"),
        ("convnext", SetDropout(hidden=0.1), "convnext's config cannot say this rate; it has no dropout"),
        ("mpnet", SetAttention("sdpa"), "mpnet has no sdpa attention; expected eager"),
    ],
)
def test_refused(family: str, step, error: str) -> None:
    config = AutoConfig.for_model(family, **({"use_swiglu_ffn": True} if family == "dinov2" else {}))
    with pytest.raises(InputError) as caught:
        step.refuse(config)
    assert error in str(caught.value)
