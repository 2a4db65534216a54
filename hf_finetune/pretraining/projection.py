"""A projection in the place of a classifier's head (SimCLR, arXiv:2002.05709)."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from hf_finetune.models.contexts import seeded
from hf_finetune.models.modules import classification_layers


def put_projection(model: PreTrainedModel, width: int, *, seed: int) -> None:
    """Put two layers in the place of a classifier's last one, so that they read what a head reads.

    Args:
        model: a stock classifier; its `logits` (B, width) from then on are the projection.
        width: outputs.
        seed: of their first weights; torch's global generator is left as it was.
    """
    with seeded(seed):
        for layer in classification_layers(model):
            name = next(n for n, module in model.named_modules() if module is layer)
            features = layer.in_features
            two = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, width))
            model.set_submodule(name, two)
