"""What the library's own classes read of their encoders, and heads of ours that one of them can express.

Legend: C classes, D width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_finetune.models.heads.classification import ClassificationHead
from hf_finetune.models.heads.pooling import STAGED, PoolingKind, Reading
from hf_finetune.models.modules import encoder

# Scale at which an activation is a straight line to the last digit of float32 for states up to about 30, and its slope
# there. Powers of two: scaling by them rounds nothing. Half precision with 5 bits of exponent (fp16) has no room for
# the latter.
STRAIGHT = {"tanh": (2.0**-14, 1.0), "gelu": (2.0**-24, 0.5)}


@dataclass(frozen=True)
class StockHead:
    """The head of a family's classification class."""

    pooling: PoolingKind | None
    """None: it reads several at once (DINOv2: CLS and the mean side by side)."""
    kind: Literal["linear", "mlp", "other"]
    activation: str | None = None
    """Of the hidden layer of an mlp."""
    dense: str = ""
    """Name of that layer in the class."""
    out: str = "classifier"
    """Name of the layer that gives the logits."""


def stock_head(config: PreTrainedConfig) -> StockHead | None:
    """What the family's classification class reads; None for families not known here."""
    match config.model_type:
        case "bert":
            return StockHead("cls", "mlp", "tanh", "bert.pooler.dense")
        case "albert":
            return StockHead("cls", "mlp", "tanh", "albert.pooler")
        case "roberta" | "xlm-roberta" | "camembert" | "mpnet":
            return StockHead("cls", "mlp", "tanh", "classifier.dense", "classifier.out_proj")
        case "electra":
            return StockHead("cls", "mlp", "gelu", "classifier.dense", "classifier.out_proj")
        case "deberta-v2":
            return StockHead("cls", "mlp", config.pooler_hidden_act, "pooler.dense")
        case "distilbert":
            return StockHead("cls", "mlp", "relu", "pre_classifier")
        case "modernbert":
            return StockHead(config.classifier_pooling, "other")
        case "vit" | "deit":
            return StockHead("cls", "linear")
        case "beit":
            return StockHead("mean" if config.use_mean_pooling else "cls", "linear")
        case "dinov2" | "dinov2_with_registers":
            return StockHead(None, "linear")
        case "efficientnet":
            return StockHead(config.pooling_type, "linear")
        case family if family in STAGED:
            return StockHead("mean", "linear")
    return None


def can_switch(config: PreTrainedConfig, pooling: PoolingKind) -> bool:
    """Whether a field of the config makes the stock class pool this way."""
    return config.model_type in ("modernbert", "beit") and pooling in ("cls", "mean")


def switch(model: PreTrainedModel, pooling: Literal["cls", "mean"]) -> None:
    """Make a stock class for which `can_switch` holds pool this way, its weights kept."""
    config = model.config
    if config.model_type == "modernbert":
        config.classifier_pooling = pooling
    elif config.use_mean_pooling != (pooling == "mean"):
        # BEiT normalises what it pools: the states before CLS is taken from them, or their mean.
        body = encoder(model)
        norm = body.pooler.layernorm if config.use_mean_pooling else body.layernorm
        body.layernorm, body.pooler.layernorm = (nn.Identity(), norm) if pooling == "mean" else (norm, None)
        config.use_mean_pooling = pooling == "mean"


def stock_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The family's classification class."""
    for mapping in (MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING):
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple) else found
    raise ValueError(f"{config.model_type} has no classification class")


def can_fold(config: PreTrainedConfig, reading: Reading, head: ClassificationHead) -> bool:
    """Whether the stock class gives the same logits with the right weights in its head.

    A linear layer on the first token fits where the stock head has a hidden layer as wide as the encoder and an
    activation that is straight near zero, and where it reads more than that (DINOv2). DistilBERT's ReLU would be
    straight only far from zero, where bfloat16 has no digits left for the states.
    """
    stock = stock_head(config)
    if stock is None or head.has_hidden or reading.last_layers > 1:
        return False
    if stock.kind == "linear":
        return stock.pooling is None and reading.pooling in ("cls", "mean")
    return stock.kind == "mlp" and reading.pooling == "cls" and stock.activation in STRAIGHT


@torch.no_grad()
def fold(body: PreTrainedModel, reading: Reading, head: ClassificationHead) -> PreTrainedModel:
    """A stock model, on its own memory, with the logits of a head for which `can_fold` holds."""
    config = copy.deepcopy(body.config)
    stock = stock_head(config)
    with torch.random.fork_rng(devices=[]):
        model = stock_class(config)(config)
    theirs = encoder(model)
    lacking = theirs.load_state_dict(body.state_dict(), strict=False)
    assert not lacking.unexpected_keys and all("pooler" in key for key in lacking.missing_keys), lacking
    out, weight_CD = model.get_submodule(stock.out), head.out.weight
    if stock.kind == "linear":
        nothing_CD = torch.zeros_like(weight_CD)
        weight_CD = torch.cat([weight_CD, nothing_CD] if reading.pooling == "cls" else [nothing_CD, weight_CD], 1)
    else:
        scale, slope = STRAIGHT[stock.activation]
        dense = model.get_submodule(stock.dense)
        dense.weight.copy_(scale * torch.eye(len(dense.weight)))
        dense.bias.zero_()
        weight_CD = weight_CD / (scale * slope)
    out.weight.copy_(weight_CD)
    out.bias.copy_(head.out.bias)
    model.name_or_path = model.config.name_or_path = body.name_or_path
    return model.to(body.device).train(body.training)
