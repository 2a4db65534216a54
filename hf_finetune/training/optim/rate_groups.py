"""Groups of parameters: what decays, and each one's peak learning rate.

Weight decay is for the weights of a matrix product, a convolution or an embedding. It is not for what is no more than a
vector, whatever its shape: biases, the scales and shifts of every norm (BatchNorm's, too), layer scales, class and mask
tokens, IA3's factors; nor for a ViT's positions and for position biases, which are added to an activation. Pulled
towards 0 these lose what they say, not their noise. A BERT's embeddings of words and positions decay, as they did in
its pretraining."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Rates:
    """How peak learning rates differ between parameters; by default they do not."""

    head: float | None = None
    """Of the head (all that sits on the encoder, and what the checkpoint did not have); None: as the rest."""
    layer_decay: float | None = None
    """Factor from each encoder layer to the one below."""
    lora_plus_ratio: float | None = None
    """LoRA's B matrices learn at so many times the rate."""
    fresh: Sequence[str] = ()
    """Modules that the checkpoint did not have, see `models.loading.Loaded`."""


def rate_groups(
    model: PreTrainedModel | PeftModel,
    *,
    lr: float,
    weight_decay: float,
    rates: Rates = Rates(),
    split_matrices: bool = False,
) -> list[dict[str, Any]]:
    """Groups for an optimizer: those at the base rate first, the others by falling rate.

    With L encoder layers, counted from 0 at the bottom, layer k learns at lr * layer_decay^(L - k), what lies below the
    layers (embeddings) at lr * layer_decay^(L + 1), all above them at lr (BEiT, https://arxiv.org/abs/2106.08254). For
    Swin, ConvNeXt and ResNet the layers are their stages.

    Args:
        lr: peak learning rate.
        weight_decay: of what decays.
        split_matrices: put the matrices within the encoder's layers into groups of their own, for Muon.

    Returns:
        Dicts of `params`, `lr`, `weight_decay`, `part` (a name for people: "layer 3", "head") and `matrix` (whether all
        `params` are such matrices; False where they are not split off).

    Raises:
        InputError: `lora_plus_ratio` is given and the model has no LoRA matrices.
    """
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    parts, factors = _parts(model, rates.layer_decay)
    head = _head(model, rates.fresh) if rates.head is not None else set()
    if rates.lora_plus_ratio is not None and not any("lora_B" in name for name in names.values()):
        raise InputError("optim.lora_plus_ratio: this adapter has no LoRA matrices; remove it, or use --method lora")
    within = {p for layer in encoder_layers(model) for p in layer.parameters()} if split_matrices else set()
    lists = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    convolutions = {m.weight for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)}
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for parameter, name in names.items():
        part, rate = parts.get(parameter, "the rest"), lr * factors.get(parameter, 1.0)
        if rates.head is not None and parameter in head:
            part, rate = "head", rates.head
        if rates.lora_plus_ratio is not None and "lora_B" in name:
            part, rate = f"{part}, LoRA B", rate * rates.lora_plus_ratio
        decays = _decays(parameter, name, convolutions)
        matrix = parameter in within and parameter.ndim == 2 and decays and parameter not in lists
        key = part, rate, decays, matrix
        group = {"lr": rate, "weight_decay": weight_decay if decays else 0.0, "part": part, "matrix": matrix}
        groups.setdefault(key, {"params": [], **group})["params"].append(parameter)
    # The first group's rate is the one that the log shows; what decays comes first among equals.
    return sorted(groups.values(), key=lambda g: (g["lr"] != lr, -g["lr"], g["weight_decay"] == 0))


def _decays(parameter: nn.Parameter, name: str, convolutions: Collection[torch.Tensor]) -> bool:
    """See the module."""
    # LoRA's factors are matrices at rank 1, too.
    flat = is_vector(parameter) and "lora_" not in name
    added = parameter.ndim > 2 and len(parameter) == 1 and parameter not in convolutions
    # MPNet's biases by distance are an embedding's weight.
    return not flat and not added and not any("bias" in part for part in name.split(".")[-2:])


def is_vector(parameter: nn.Parameter) -> bool:
    """Whether all but one side of it are 1."""
    return parameter.numel() == max(parameter.shape, default=1)


def _parts(
    model: PreTrainedModel | PeftModel, layer_decay: float | None
) -> tuple[dict[nn.Parameter, str], dict[nn.Parameter, float]]:
    """Name and factor of each parameter within and below the encoder's layers, where these learn at rates of their
    own."""
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


def _head(model: PreTrainedModel | PeftModel, fresh: Sequence[str]) -> set[nn.Parameter]:
    base = without_adapter(model)
    return {p for name in head_modules(base, fresh) for p in base.get_submodule(name).parameters()}


def rates_in_words(groups: Sequence[dict[str, Any]]) -> str:
    """The groups' parts and peak rates, each once, for the log: "head 0.001, the rest 0.0001"."""
    shown = {group["part"]: group.get("initial_lr", group["lr"]) for group in groups}
    return ", ".join(f"{part} {rate:.3g}" for part, rate in shown.items())
