"""Parameter groups: which weights decay, and each group's peak learning rate.

Weights of matrix products, convolutions and embeddings decay. Vectors of any shape do not: biases, scales and shifts of
norms, layer scales, class and mask tokens, IA3's factors. Nor do a ViT's positions and position biases, which are added
to an activation. Decay would remove what these have learned, not their noise. A BERT's word and position embeddings
decay, as they did in its pretraining."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.freezing import lower_part, parameters_by_layer
from hf_finetune.models.modules import encoder, encoder_layers, head_modules, without_adapter
from hf_finetune.training.optim.base import ParameterGroup


@dataclass(frozen=True)
class Rates:
    """How peak learning rates differ between parameters. By default they do not."""

    head: float | None = None
    """Rate of the head: all modules on top of the encoder, and those that the checkpoint lacked."""
    layer_decay: float | None = None
    """Ratio of a layer's rate to that of the layer above."""
    lora_plus_ratio: float | None = None
    """Ratio of the rate of LoRA's B matrices to that of its A matrices."""
    fresh: Sequence[str] = ()
    """Modules that the checkpoint lacked, see `models.loading.Loaded`."""


def rate_groups(
    model: PreTrainedModel | PeftModel,
    *,
    lr: float,
    weight_decay: float,
    rates: Rates = Rates(),
    split_matrices: bool = False,
) -> list[ParameterGroup]:
    """Return an optimizer's parameter groups: those at the base rate first, then by falling rate.

    With L encoder layers, numbered from 0 at the bottom, layer k learns at lr * layer_decay^(L - k), everything below
    the layers (embeddings) at lr * layer_decay^(L + 1), and everything above at lr (BEiT,
    https://arxiv.org/abs/2106.08254). The layers of Swin, ConvNeXt and ResNet are their stages.

    Args:
        lr: peak learning rate.
        weight_decay: decay of the weights that decay.
        split_matrices: put the matrices of the encoder's layers into groups of their own, for Muon.

    Raises:
        InputError: `lora_plus_ratio` is set, and the model has no LoRA matrices.
    """
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    parts, factors = _layer_rates(model, rates.layer_decay)
    head = _head_parameters(model, rates.fresh) if rates.head is not None else set()
    if rates.lora_plus_ratio is not None and not any("lora_B" in name for name in names.values()):
        raise InputError("optim.lora_plus_ratio: this adapter has no LoRA matrices; remove it, or use --method lora")
    matrices = _layer_matrices(model) if split_matrices else set()
    convolutions = {m.weight for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)}
    groups: dict[tuple[Any, ...], ParameterGroup] = {}
    for parameter, name in names.items():
        part, rate = parts.get(parameter, "the rest"), lr * factors.get(parameter, 1.0)
        if rates.head is not None and parameter in head:
            part, rate = "head", rates.head
        if rates.lora_plus_ratio is not None and "lora_B" in name:
            part, rate = f"{part}, LoRA B", rate * rates.lora_plus_ratio
        decays = _decays(parameter, name, convolutions)
        matrix = decays and parameter in matrices
        group = {"lr": rate, "weight_decay": weight_decay if decays else 0.0, "part": part, "matrix": matrix}
        groups.setdefault((part, rate, decays, matrix), {"params": [], **group})["params"].append(parameter)
    # The log shows the first group's rate. Among equal rates, weights that decay come first.
    return sorted(groups.values(), key=lambda g: (g["lr"] != lr, -g["lr"], g["weight_decay"] == 0))


def _layer_matrices(model: PreTrainedModel | PeftModel) -> set[nn.Parameter]:
    """Matrices of the encoder's layers, embedding tables left out."""
    tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    return {p for layer in encoder_layers(model) for p in layer.parameters() if p.ndim == 2} - tables


def _decays(parameter: nn.Parameter, name: str, convolutions: Collection[torch.Tensor]) -> bool:
    # LoRA's factors are matrices at rank 1, too.
    is_flat = is_vector(parameter) and "lora_" not in name
    is_added = parameter.ndim > 2 and len(parameter) == 1 and parameter not in convolutions
    # MPNet's distance biases are the weight of an embedding.
    return not is_flat and not is_added and not any("bias" in part for part in name.split(".")[-2:])


def is_vector(parameter: nn.Parameter) -> bool:
    """Return whether at most one of its dimensions is above 1."""
    return parameter.numel() == max(parameter.shape, default=1)


def _layer_rates(
    model: PreTrainedModel | PeftModel, layer_decay: float | None
) -> tuple[dict[nn.Parameter, str], dict[nn.Parameter, float]]:
    """Name and rate factor of each parameter in and below the encoder's layers, where layer decay is on."""
    if layer_decay is None or layer_decay == 1:
        return {}, {}
    layers = parameters_by_layer(model)
    below = set(lower_part(model, 0))
    parts = {p: "embeddings" for name, p in encoder(model).named_parameters() if name in below}
    factors = {p: layer_decay ** (len(layers) + 1) for p in parts}
    for k, layer in enumerate(layers):
        for parameter in layer:
            parts[parameter], factors[parameter] = f"layer {k}", layer_decay ** (len(layers) - k)
    return parts, factors


def _head_parameters(model: PreTrainedModel | PeftModel, fresh: Sequence[str]) -> set[nn.Parameter]:
    base = without_adapter(model)
    return {p for name in head_modules(base, fresh) for p in base.get_submodule(name).parameters()}


def rates_in_words(groups: Sequence[ParameterGroup]) -> str:
    """Format the groups' parts and peak rates for the log: "head 0.001, the rest 0.0001"."""
    shown = {group["part"]: group.get("initial_lr", group["lr"]) for group in groups}
    return ", ".join(f"{part} {rate:.3g}" for part, rate in shown.items())
