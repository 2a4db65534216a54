"""The parts of a classifier: its encoder, the encoder's layers, its head, and the layers that output the logits.

Every function works on a PEFT model, too.

Legend: B rows, C classes, D features.
"""

from collections.abc import Sequence
from typing import TypeVar, cast

import torch
from peft import PeftModel
from torch import nn
from transformers import DeiTForImageClassificationWithTeacher, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from hf_finetune.errors import InputError
from hf_finetune.models.families import PROJECTIONS, family_of

M = TypeVar("M", bound=nn.Module)

TOKEN_CLASSIFIER = "ForTokenClassification"
"""End of the names of the stock classes with an output for each token."""


def without_adapter(model: nn.Module) -> PreTrainedModel:
    """Return the classifier itself, without the PEFT model around it."""
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def config_of(model: nn.Module) -> PreTrainedConfig:
    """Return the config of a classifier or of its encoder."""
    return without_adapter(model).config


def is_token_classifier(model: nn.Module) -> bool:
    """Return whether a model has an output for each token."""
    return type(without_adapter(model)).__name__.endswith(TOKEN_CLASSIFIER)


def encoder(model: nn.Module) -> PreTrainedModel:
    """Return the pretrained part of a classifier (`model.bert`, `model.vit`).

    Raises:
        InputError: a class of remote code without `base_model_prefix`.
    """
    # Not on the PEFT model: it calls the classifier `model`, which is also ModernBERT's prefix.
    classifier = without_adapter(model)
    if not classifier.base_model_prefix:
        raise InputError(f"{type(classifier).__name__} names no encoder (base_model_prefix); use a stock family")
    return getattr(classifier, classifier.base_model_prefix)


def submodule(model: nn.Module, name: str, kind: type[M]) -> M:
    """Return a module by its full name, typed as `kind`."""
    module = model.get_submodule(name)
    assert isinstance(module, kind), f"{name} is a {type(module).__name__}"
    return module


def encoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return the encoder's layers, bottom to top: the children of its outermost `ModuleList`.

    Flat families: their transformer blocks. Swin, ConvNeXt and ResNet: their stages, since the blocks of a stage share
    its downsampling. PoolFormer: the blocks of all stages. ALBERT: its one layer, which it applies many times.

    Raises:
        InputError: see `layer_list`.
    """
    family = family_of(config_of(model))
    if family.stage_entries is not None:
        # Its outermost list holds the downsampling modules.
        stages = submodule(encoder(model), family.layers.removesuffix(".{}.{}"), nn.ModuleList)
        return [layer for stage in stages for layer in stage.children()]
    return list(layer_list(model)[1])


def layer_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the name, relative to the encoder, of its outermost `ModuleList`, and the list.

    Raises:
        InputError: the encoder has no such list.
    """
    for name, module in encoder(model).named_modules():
        if isinstance(module, nn.ModuleList):
            return name, module
    raise InputError(f"{config_of(model).model_type}: this family has no list of layers to choose from")


def query_key_value(module: nn.Module) -> tuple[str, str, str] | None:
    """Return the names of a module's query, key and value layers, or None if it has none among its children."""
    children = dict(module.named_children())
    return next((names for names in PROJECTIONS if all(name in children for name in names)), None)


def classification_layer(model: nn.Module) -> nn.Linear:
    """Return the linear layer that outputs the logits (B, C): the last one outside the encoder with C outputs.

    This is `classifier` (BERT, DistilBERT, DeBERTa, ALBERT, ModernBERT, ViT, DeiT, DINOv2, Swin, BEiT, ConvNeXt),
    `classifier.out_proj` (RoBERTa, ELECTRA, MPNet) or `classifier[-1]` (ResNet); in a PEFT model its trainable copy.

    Raises:
        ValueError: the model has no such layer.
    """
    classes, body = config_of(model).num_labels, set(encoder(model).modules())
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m not in body and m.out_features == classes]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layer with {classes} outputs on its encoder")
    return layers[-1]


def classification_layers(model: nn.Module) -> list[nn.Linear]:
    """Return the linear layers that output the logits: one, or the two of a distilled DeiT.

    A distilled DeiT predicts the mean of two heads: that of the class token, which learns the labels, and that of the
    distillation token, which learns from the teacher (arXiv:2012.12877, section 4).
    """
    if isinstance(model, DeiTForImageClassificationWithTeacher):
        return [submodule(model, name, nn.Linear) for name in ("cls_classifier", "distillation_classifier")]
    return [classification_layer(model)]


def head_logits(outputs: ModelOutput) -> torch.Tensor:
    """Return the logits (B, C) of a forward pass; of a distilled DeiT (B, 2, C), as `classification_layers`."""
    if "distillation_logits" in outputs:
        return torch.stack([outputs["cls_logits"], outputs["distillation_logits"]], 1)
    return outputs["logits"]


def head_modules(model: nn.Module, fresh: Sequence[str] = ()) -> list[str]:
    """Return the names of the modules that `--method head` trains: all outside the encoder, and new ones in it.

    Args:
        fresh: modules that the checkpoint lacks, see `loading.Loaded`, such as BERT's pooler after masked-language
            pretraining.

    Returns:
        Names of modules with parameters, in the model's order, none inside another.
    """
    outside = {n for n, _ in model.named_children() if n != without_adapter(model).base_model_prefix}
    head = outside | {n for n in fresh if n.split(".")[0] not in outside}
    names = [n for n, m in model.named_modules() if n in head and any(True for _ in m.parameters())]
    return [n for n in names if not any(n.startswith(f"{other}.") for other in names)]


@torch.no_grad()
def set_layer(layer: nn.Linear, weight_CD: torch.Tensor, bias_C: torch.Tensor) -> None:
    """Set the weights of a linear layer, in its own dtype and on its device.

    Args:
        weight_CD: shape (C, D).
        bias_C: shape (C,).

    Raises:
        ValueError: the shapes differ from the layer's, or it has no bias.
    """
    if layer.bias is None or layer.weight.shape != weight_CD.shape or layer.bias.shape != bias_C.shape:
        shapes = f"weight {tuple(weight_CD.shape)}, bias {tuple(bias_C.shape)}"
        raise ValueError(f"expected weight {tuple(layer.weight.shape)} and a bias to set, got {shapes}")
    layer.weight.copy_(weight_CD)
    layer.bias.copy_(bias_C)


@torch.no_grad()
def reorder(layers: Sequence[nn.Linear], order: Sequence[int]) -> None:
    """Permute the rows of the weights and biases of linear layers.

    Args:
        order: the current row of each class, length C.
    """
    for layer in layers:
        for parameter in layer.parameters():
            parameter.copy_(parameter[list(order)])
