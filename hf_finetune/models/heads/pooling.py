"""From the states of an encoder's last layers to one vector a row: the first token, a mean, a maximum, or attention.

Legend: B rows, T tokens, D width of what is pooled (of several layers together), H height and W width of a feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedConfig

from hf_finetune.errors import InputError

PoolingKind = Literal["cls", "mean", "max", "attention"]

# Families that are known to pool right; a test holds each of them to it.
TEXTS = (
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "electra",
    "deberta-v2",
    "mpnet",
    "distilbert",
    "albert",
    "modernbert",
)
# Tokens that stand before the patches: CLS, and DeiT's distillation token. Registers are counted from the config.
PATCHES_AFTER = {"vit": 1, "deit": 2, "beit": 1, "dinov2": 1, "dinov2_with_registers": 1}
# Their layers come in stages of different width and resolution, and no token stands for the whole.
STAGED = ("swin", "convnext", "convnextv2", "resnet", "efficientnet")


@dataclass(frozen=True)
class Reading:
    """What a head reads of its encoder."""

    pooling: PoolingKind
    last_layers: int = 1
    """The states of this many of the highest layers, side by side."""
    first: int = 0
    """Tokens before the first one that mean, max and attention read: not those that stand before a picture's patches."""


def reading_of(config: PreTrainedConfig, pooling: PoolingKind, last_layers: int) -> Reading:
    """How a family is read.

    Raises:
        InputError: the family is not known here, has no such token, or not so many layers of one shape.
    """
    family = config.model_type
    if family in STAGED:
        if pooling == "cls":
            raise InputError(f"model.pooling: {family} has no CLS token; expected default, mean, max or attention")
        if last_layers > 1:
            raise InputError(
                f"model.last_layers: the stages of {family} differ in shape; expected 1, got {last_layers}"
            )
        return Reading(pooling)
    if family not in TEXTS and family not in PATCHES_AFTER:
        known = ", ".join((*TEXTS, *PATCHES_AFTER, *STAGED))
        raise InputError(f"model.pooling: {family} is none of {known}; leave model.pooling, last_layers and head unset")
    if last_layers > config.num_hidden_layers:
        raise InputError(f"model.last_layers: expected 1 to {config.num_hidden_layers}, got {last_layers}")
    return Reading(pooling, last_layers, tokens_before_patches(config))


def tokens_before_patches(config: PreTrainedConfig) -> int:
    """Tokens of a picture that are no patch: CLS, DeiT's second one, registers. 0 for texts, and where layers come in stages."""
    registers = config.num_register_tokens if config.model_type == "dinov2_with_registers" else 0
    return PATCHES_AFTER.get(config.model_type, 0) + registers


def width_of(config: PreTrainedConfig) -> int:
    """Features of the last layer's states; of EfficientNet's, those of the convolution behind its layers."""
    if config.model_type == "efficientnet":
        return config.hidden_dim
    return config.hidden_sizes[-1] if "hidden_sizes" in config.to_dict() else config.hidden_size


def masked_mean(states_BTD: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    """Mean over the tokens that are no padding, summed in float32. Shape (B, D)."""
    if mask_BT is None:
        return states_BTD.mean(1, dtype=torch.float32)
    mask_BT1 = mask_BT[:, :, None].float()
    return (states_BTD.float() * mask_BT1).sum(1) / mask_BT1.sum(1)


def masked_max(states_BTD: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    """Largest value of every feature over the tokens that are no padding. Shape (B, D)."""
    if mask_BT is not None:
        states_BTD = states_BTD.masked_fill(mask_BT[:, :, None] == 0, -torch.inf)
    return states_BTD.amax(1)


class Pool(nn.Module):
    """One vector a row.

    Attention is a weighted mean (arXiv:1512.08756, with a linear score): a token's weight is the softmax over the row of
    its product with one learned vector, the `query`. That starts at zero: as the mean.

    Args:
        reading: how.
        width: D.
    """

    def __init__(self, reading: Reading, width: int) -> None:
        super().__init__()
        self.reading = reading
        if reading.pooling == "attention":
            self.query = nn.Parameter(torch.zeros(width))

    def forward(self, states_BTD: torch.Tensor, mask_BT: torch.Tensor | None = None) -> torch.Tensor:
        """Shape (B, D), in the states' dtype.

        Args:
            states_BTD: shape (B, T, D).
            mask_BT: shape (B, T), 0 for padding; None: there is none.
        """
        if self.reading.pooling == "cls":
            return states_BTD[:, 0]
        states_BTD = states_BTD[:, self.reading.first :]
        match self.reading.pooling:
            case "mean":
                pooled_BD = masked_mean(states_BTD, mask_BT)
            case "max":
                pooled_BD = masked_max(states_BTD, mask_BT)
            case _:
                scores_BT = (states_BTD.float() * self.query.float()).sum(-1)
                if mask_BT is not None:
                    scores_BT = scores_BT.masked_fill(mask_BT == 0, -torch.inf)
                pooled_BD = (states_BTD.float() * scores_BT.softmax(1)[:, :, None]).sum(1)
        return pooled_BD.to(states_BTD.dtype)

    def extra_repr(self) -> str:
        """So that two readings of one network do not look alike."""
        return repr(self.reading)


def states_of(last_BTD: torch.Tensor, hidden: tuple[torch.Tensor, ...] | None, last_layers: int) -> torch.Tensor:
    """States of the highest layers side by side, the last layer's first. Shape (B, T, D).

    Args:
        last_BTD: the encoder's `last_hidden_state`, after its final norm; or a feature map (B, D, H, W).
        hidden: its `hidden_states`, the embeddings' first; None where one layer is read.
        last_layers: how many layers.
    """
    if last_BTD.dim() == 4:
        last_BTD = last_BTD.flatten(2).transpose(1, 2)
    if last_layers == 1:
        return last_BTD
    assert hidden is not None, "several layers are read"
    return torch.cat([last_BTD, *(hidden[-n] for n in range(2, last_layers + 1))], -1)
