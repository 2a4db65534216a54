"""The part of a classifier that sits on the pretrained encoder: its modules, and the layer that gives the logits.

Legend: B rows, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import nn
from transformers import DeiTForImageClassificationWithTeacher, PreTrainedModel
from transformers.utils import ModelOutput

from hf_finetune.errors import InputError


def without_adapter(model: nn.Module) -> PreTrainedModel:
    """The classifier itself, which a PEFT model wraps."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def encoder(model: PreTrainedModel) -> nn.Module:
    """The pretrained part of a classifier (`model.bert`, `model.vit`); through a PEFT model as well.

    Raises:
        InputError: a class of foreign code that does not tell its encoder from its head.
    """
    # ModernBERT's prefix, `model`, is also what a PEFT model calls the whole classifier.
    whole = without_adapter(model)
    if not whole.base_model_prefix:
        raise InputError(f"{type(whole).__name__} names no encoder (base_model_prefix); use a stock family")
    return getattr(whole, whole.base_model_prefix)


def encoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The encoder's layers, bottom to top: the children of its outermost list of modules.

    Transformer blocks for the flat families. For Swin, ConvNeXt and ResNet these are the stages, because the blocks of
    a stage share its downsampling. ALBERT has one layer, which it applies many times. PoolFormer's are the blocks of all
    its stages.

    Raises:
        InputError: the encoder has no list of layers.
    """
    if model.config.model_type == "poolformer":
        # Its outermost list is that of the embeddings which stand between the stages.
        return [layer for stage in encoder(model).encoder.block for layer in stage]
    return list(layer_list(model)[1])


def layer_list(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list and its name inside the encoder."""
    for name, module in encoder(model).named_modules():
        if isinstance(module, nn.ModuleList):
            return name, module
    raise InputError(f"{model.config.model_type}: this family has no list of layers to choose from")


def classification_layer(model: PreTrainedModel) -> nn.Linear:
    """The linear layer whose output is the logits (B, C): the last one outside the encoder with C outputs.

    `classifier` of BERT, DistilBERT, DeBERTa, ALBERT, ModernBERT, ViT, DeiT, DINOv2, Swin, BEiT and ConvNeXt,
    `classifier.out_proj` of RoBERTa, ELECTRA and MPNet, `classifier[-1]` of ResNet; in a PEFT model the copy that
    trains.

    Raises:
        ValueError: the model has no such layer.
    """
    inside = set(encoder(model).modules())
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m not in inside]
    layers = [m for m in layers if m.out_features == model.config.num_labels]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no linear layer with {model.config.num_labels} outputs on its encoder"
        )
    return layers[-1]


def classification_layers(model: PreTrainedModel) -> list[nn.Linear]:
    """The linear layers that the logits are made of: one, or the two of a DeiT that was taught.

    That one answers with the mean of two heads: of the class token, which learned the labels, then of the distillation
    token, which learned the teacher (arXiv:2012.12877, section 4).
    """
    if isinstance(model, DeiTForImageClassificationWithTeacher):
        own, distilled = model.cls_classifier, model.distillation_classifier
        assert isinstance(own, nn.Linear) and isinstance(distilled, nn.Linear), "a classifier of no classes"
        return [own, distilled]
    return [classification_layer(model)]


def head_logits(outputs: ModelOutput) -> torch.Tensor:
    """The logits (B, C) of a forward pass; of a DeiT with two heads (B, 2, C), in the order of `classification_layers`."""
    if "distillation_logits" in outputs:
        return torch.stack([outputs["cls_logits"], outputs["distillation_logits"]], 1)
    return outputs["logits"]


def head_modules(model: PreTrainedModel, fresh: Sequence[str] = ()) -> list[str]:
    """Names of the modules that `--method head` trains: all that sit on the encoder, and what is new within it.

    Args:
        fresh: modules that the checkpoint did not have, see `load.Loaded`: BERT's pooler after masked-language
            pretraining, for example.

    Returns:
        Module names in the model's order, none inside another, only such that have parameters.
    """
    outside = {n for n, _ in model.named_children() if n != model.base_model_prefix}
    wanted = outside | {n for n in fresh if n.split(".")[0] not in outside}
    names = [n for n, m in model.named_modules() if n in wanted and any(True for _ in m.parameters())]
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
        found = f"weight {tuple(weight_CD.shape)}, bias {tuple(bias_C.shape)}"
        raise ValueError(f"expected weight {tuple(layer.weight.shape)} and a bias to set, got {found}")
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
