"""From the hidden states of an encoder's last layers to one vector a row: the first token, mean, maximum, or attention.

Legend: B rows, T tokens, D width of what is pooled (of several layers together), H height and W width of a feature map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig

from hf_finetune.errors import InputError
from hf_finetune.models.families import PoolingKind, family_of, names_where, tokens_before_patches

# A test holds each of them to it.
POOLED = names_where(lambda family: family.head is not None)


@dataclass(frozen=True)
class PoolingSpec:
    """What a head reads of its encoder."""

    kind: PoolingKind
    last_layers: int = 1
    """The hidden states of this many of the highest layers, side by side."""
    first: int = 0
    """Tokens before the first one that mean, max and attention read: those that stand before an image's patches."""


def pooling_spec(config: PreTrainedConfig, kind: PoolingKind, last_layers: int) -> PoolingSpec:
    """How a family is pooled.

    Raises:
        InputError: the family is not known here, has no such token, or not so many layers of one shape.
    """
    name, family = config.model_type, family_of(config)
    if family is None or family.head is None:
        known = ", ".join(POOLED)
        raise InputError(f"model.pooling: {name} is none of {known}; leave model.pooling, last_layers and head unset")
    if family.staged and kind == "cls":
        raise InputError(f"model.pooling: {name} has no CLS token; expected default, mean, max or attention")
    if family.staged and last_layers > 1:
        raise InputError(f"model.last_layers: the stages of {name} differ in shape; expected 1, got {last_layers}")
    if not family.staged and last_layers > config.num_hidden_layers:
        raise InputError(f"model.last_layers: expected 1 to {config.num_hidden_layers}, got {last_layers}")
    return PoolingSpec(kind, last_layers, tokens_before_patches(config))


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

    Attention is a weighted mean (arXiv:1512.08756, with a linear score): a token's weight is the softmax over the row
    of its product with one learned vector, the `query`. That starts at zero: as the mean.

    Args:
        spec: how.
        width: D.
    """

    def __init__(self, spec: PoolingSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        if spec.kind == "attention":
            self.query = nn.Parameter(torch.zeros(width))

    def forward(self, states_BTD: torch.Tensor, mask_BT: torch.Tensor | None = None) -> torch.Tensor:
        """Shape (B, D), in the dtype of the hidden states.

        Args:
            states_BTD: shape (B, T, D).
            mask_BT: shape (B, T), 0 for padding; None: there is none.
        """
        if self.spec.kind == "cls":
            return states_BTD[:, 0]
        states_BTD = states_BTD[:, self.spec.first :]
        match self.spec.kind:
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
        """So that two poolings of one network do not look alike."""
        return repr(self.spec)


def last_states(last_BTD: torch.Tensor, hidden: tuple[torch.Tensor, ...] | None, last_layers: int) -> torch.Tensor:
    """Hidden states of the highest layers side by side, the last layer's first. Shape (B, T, D).

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
