"""Dropout rates by site."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.models import logits
from transformers import AutoConfig

from hf_finetune.errors import InputError
from hf_finetune.models.families import FAMILIES
from hf_finetune.models.loading import Loaded
from hf_finetune.models.surgery.dropout import SetDropout

# Dropout sites with a config field, by family.
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


@pytest.mark.parametrize("family", SITES)
def test_dropout_acts_at_the_chosen_site_only(family: str, classifier: Callable[..., Loaded], inputs) -> None:
    """Two passes in training mode are equal without dropout, and differ with dropout at any one site."""
    model, batch = classifier(family, dropout=0.0).model, inputs(family)
    torch.testing.assert_close(logits(model.train(), batch), logits(model, batch), rtol=0, atol=0)
    for site in ("hidden", "attention", "embeddings", "classifier"):
        step = SetDropout(**{site: 0.5})
        if site not in SITES[family]:
            with pytest.raises(InputError, match=f"SetDropout: {site}: {family}'s config has no such rate; it has "):
                step.update_config(AutoConfig.for_model(family))
            continue
        after = step(model)
        assert after.training and not torch.equal(logits(after, batch), logits(after, batch)), site
        before, now = model.config.to_dict(), after.config.to_dict()
        assert {name for name in now if now[name] != before.get(name)} == {FAMILIES[family].dropout[site]}
