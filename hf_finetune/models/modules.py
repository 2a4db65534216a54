"""Where a classifier's parts are: its encoder, the encoder's layers, the head, and the layers that give the logits.

All of it works through a PEFT model as well.

Legend: B rows, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

import torch
from peft import PeftModel
from torch import nn
from transformers import DeiTForImageClassificationWithTeacher, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from hf_finetune.errors import InputError
from hf_finetune.models.families import QUERY_KEY_VALUE, family_of

M = TypeVar("M", bound=nn.Module)


def without_adapter(model: nn.Module) -> PreTrainedModel:
    """The classifier itself, which a PEFT model wraps."""
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def config_of(model: nn.Module) -> PreTrainedConfig:
    """The config of a classifier, or of its encoder."""
    return without_adapter(model).config


def encoder(model: nn.Module) -> PreTrainedModel:
    """The pretrained part of a classifier (`model.bert`, `model.vit`).

    Raises:
        InputError: a class of foreign code that does not tell its encoder from its head.
    """
    # ModernBERT's prefix, `model`, is also what a PEFT model calls the whole classifier.
    whole = without_adapter(model)
    if not whole.base_model_prefix:
        raise InputError(f"{type(whole).__name__} names no encoder (base_model_prefix); use a stock family")
    return getattr(whole, whole.base_model_prefix)


def submodule(model: nn.Module, name: str, kind: type[M]) -> M:
    """A module by its full name, of this class."""
    module = model.get_submodule(name)
    assert isinstance(module, kind), f"{name} is a {type(module).__name__}"
    return module


def encoder_layers(model: nn.Module) -> list[nn.Module]:
    """The encoder's layers, bottom to top: the children of its outermost list of modules.

    Transformer blocks for the flat families. For Swin, ConvNeXt and ResNet these are the stages, because the blocks of
    a stage share its downsampling. ALBERT has one layer, which it applies many times. PoolFormer's are the blocks of
    all its stages.

    Raises:
        InputError: the encoder has no list of layers.
    """
    family = family_of(config_of(model))
    if family is not None and family.stage_entries is not None:
        # The outermost list is that of the entries.
        stages = submodule(encoder(model), family.layers.removesuffix(".{}.{}"), nn.ModuleList)
        return [layer for stage in stages for layer in stage.children()]
    return list(layer_list(model)[1])


def layer_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The encoder's outermost list of modules, and its name inside the encoder.

    Raises:
        InputError: the encoder has none.
    """
    for name, module in encoder(model).named_modules():
        if isinstance(module, nn.ModuleList):
            return name, module
    raise InputError(f"{config_of(model).model_type}: this family has no list of layers to choose from")


def query_key_value(module: nn.Module) -> tuple[str, str, str] | None:
    """Names of the query, key and value layers right inside a module; None where there are none."""
    children = dict(module.named_children())
    return next((names for names in QUERY_KEY_VALUE if all(name in children for name in names)), None)


def classification_layer(model: nn.Module) -> nn.Linear:
    """The linear layer whose output is the logits (B, C): the last one outside the encoder with C outputs.

    `classifier` of BERT, DistilBERT, DeBERTa, ALBERT, ModernBERT, ViT, DeiT, DINOv2, Swin, BEiT and ConvNeXt,
    `classifier.out_proj` of RoBERTa, ELECTRA and MPNet, `classifier[-1]` of ResNet; in a PEFT model the copy that
    trains.

    Raises:
        ValueError: the model has no such layer.
    """
    classes, body = config_of(model).num_labels, set(encoder(model).modules())
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m not in body and m.out_features == classes]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layer with {classes} outputs on its encoder")
    return layers[-1]


def classification_layers(model: nn.Module) -> list[nn.Linear]:
    """The linear layers that the logits are made of: one, or the two of a distilled DeiT.

    That one predicts the mean of two heads: of the class token, which learned the labels, then of the distillation
    token, which learned the teacher (arXiv:2012.12877, section 4).
    """
    if isinstance(model, DeiTForImageClassificationWithTeacher):
        return [submodule(model, name, nn.Linear) for name in ("cls_classifier", "distillation_classifier")]
    return [classification_layer(model)]


def head_logits(outputs: ModelOutput) -> torch.Tensor:
    """The logits (B, C) of a forward pass; of a DeiT with two heads (B, 2, C), in `classification_layers`' order."""
    if "distillation_logits" in outputs:
        return torch.stack([outputs["cls_logits"], outputs["distillation_logits"]], 1)
    return outputs["logits"]


def head_modules(model: nn.Module, fresh: Sequence[str] = ()) -> list[str]:
    """Names of the modules that `--method head` trains: all that sit on the encoder, and what is new within it.

    Args:
        fresh: modules that the checkpoint did not have, see `loading.Loaded`: BERT's pooler after masked-language
            pretraining, for example.

    Returns:
        Module names in the model's order, none inside another, only such that have parameters.
    """
    outside = {n for n, _ in model.named_children() if n != without_adapter(model).base_model_prefix}
    head = outside | {n for n in fresh if n.split(".")[0] not in outside}
    names = [n for n, m in model.named_modules() if n in head and any(True for _ in m.parameters())]
    return [n for n in names if not any(n.startswith(f"{other}.") for other in names)]


@torch.no_grad()
def set_layer(layer: nn.Linear, weight_CD: torch.Tensor, bias_C: torch.Tensor) -> None:
    """Write the weights of a linear layer, keeping its dtype and device.

    Args:
        weight_CD: shape (C, D), D features of the layer's input.
        bias_C: shape (C,).

    Raises:
        ValueError: the shapes are not the layer's, or it has no bias.
    """
    if layer.bias is None or layer.weight.shape != weight_CD.shape or layer.bias.shape != bias_C.shape:
        shapes = f"weight {tuple(weight_CD.shape)}, bias {tuple(bias_C.shape)}"
        raise ValueError(f"expected weight {tuple(layer.weight.shape)} and a bias to set, got {shapes}")
    layer.weight.copy_(weight_CD)
    layer.bias.copy_(bias_C)


@torch.no_grad()
def reorder(layers: Sequence[nn.Linear], order: Sequence[int]) -> None:
    """Give linear layers the rows of their weights and biases in another order.

    Args:
        order: for each class the row, shape (C,), that is its now.
    """
    for layer in layers:
        for parameter in layer.parameters():
            parameter.copy_(parameter[list(order)])
