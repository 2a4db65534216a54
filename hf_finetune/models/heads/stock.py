"""The heads of the stock classes: switch their pooling, and fold a custom head into them.

Legend: C classes, D width.
"""

import copy
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.models.checkpoint_config import AUTO_CLASS
from hf_finetune.models.families import stock_head
from hf_finetune.models.family import PoolingKind
from hf_finetune.models.heads.classification import ClassificationHead
from hf_finetune.models.heads.pooling import PoolingSpec
from hf_finetune.models.modules import encoder, submodule

# Scale at which an activation is linear, to the last digit of float32, for states up to about 30, and its slope there.
# Powers of two, so that scaling does not round. fp16, with its 5 bits of exponent, cannot represent the second scale.
LINEAR_SCALE: dict[str | None, tuple[float, float]] = {"tanh": (2.0**-14, 1.0), "gelu": (2.0**-24, 0.5)}


def can_switch(config: PreTrainedConfig, kind: PoolingKind | Literal["default"]) -> bool:
    """Whether a config field makes the stock class pool this way."""
    stock = stock_head(config)
    return stock is not None and stock.switch is not None and kind in ("cls", "mean")


def switch(model: PreTrainedModel, kind: PoolingKind | Literal["default"]) -> None:
    """Make a stock model, for which `can_switch` holds, pool this way; its weights stay the same."""
    config, body = model.config, encoder(model)
    if "use_mean_pooling" not in config.to_dict():
        config.classifier_pooling = kind
    elif config.use_mean_pooling != (kind == "mean"):
        # BEiT normalizes either all hidden states, before it takes CLS, or their mean.
        pooler: Any = body.get_submodule("pooler")
        norm = pooler.layernorm if config.use_mean_pooling else body.layernorm
        body.layernorm, pooler.layernorm = (nn.Identity(), norm) if kind == "mean" else (norm, None)
        config.use_mean_pooling = kind == "mean"


def stock_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return the family's classification class."""
    for auto in AUTO_CLASS.values():
        if type(config) in auto._model_mapping:
            classes = auto._model_mapping[type(config)]
            return classes[0] if isinstance(classes, tuple) else classes
    raise ValueError(f"{config.model_type} has no classification class")


def can_fold(config: PreTrainedConfig, spec: PoolingSpec, head: ClassificationHead) -> bool:
    """Whether the stock class can compute the same logits, with suitable weights in its head.

    A linear layer on the first token can be folded into a hidden layer as wide as the encoder if its activation is
    linear near zero, and into a head that reads more than that token (DINOv2). DistilBERT's ReLU is linear only far
    from zero, where bfloat16 has no digits left for the states.
    """
    stock = stock_head(config)
    if stock is None or head.has_hidden or spec.last_layers > 1:
        return False
    if stock.kind == "linear":
        return stock.pooling is None and spec.kind in ("cls", "mean")
    return stock.kind == "mlp" and spec.kind == "cls" and stock.activation in LINEAR_SCALE


@torch.no_grad()
def fold(body: PreTrainedModel, spec: PoolingSpec, head: ClassificationHead) -> PreTrainedModel:
    """Return a stock model, in memory of its own, with the logits of a head for which `can_fold` holds."""
    config = copy.deepcopy(body.config)
    stock = stock_head(config)
    assert stock is not None, f"{config.model_type} cannot be folded"
    with torch.random.fork_rng(devices=[]):
        model = stock_class(config)(config)
    missing, unexpected = encoder(model).load_state_dict(body.state_dict(), strict=False)
    assert not unexpected and all("pooler" in key for key in missing), (missing, unexpected)
    weight_CD: torch.Tensor = head.out.weight
    if stock.kind == "linear":
        zeros_CD = torch.zeros_like(weight_CD)
        weight_CD = torch.cat([weight_CD, zeros_CD] if spec.kind == "cls" else [zeros_CD, weight_CD], 1)
    else:
        scale, slope = LINEAR_SCALE[stock.activation]
        dense = submodule(model, stock.dense, nn.Linear)
        dense.weight.copy_(scale * torch.eye(len(dense.weight)))
        dense.bias.zero_()
        weight_CD = weight_CD / (scale * slope)
    out = submodule(model, stock.out, nn.Linear)
    out.weight.copy_(weight_CD)
    out.bias.copy_(head.out.bias)
    model.name_or_path = model.config.name_or_path = body.name_or_path
    nn.Module.to(model, body.device)
    return model.train(body.training)
