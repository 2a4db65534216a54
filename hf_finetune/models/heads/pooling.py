"""Pool the hidden states of an encoder's last layers into one vector per row: first token, mean, maximum or attention.

Legend: B rows, T tokens, D width of the pooled states (of several layers together), H height and W width of a feature
map.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig

from hf_finetune.errors import InputError
from hf_finetune.models.families import family_of, names_where, tokens_before_patches
from hf_finetune.models.family import PoolingKind

# Families that can be pooled; a test covers each of them.
POOLED = names_where(lambda family: family.head is not None)


@dataclass(frozen=True)
class PoolingSpec:
    """How a head pools the hidden states of its encoder."""

    kind: PoolingKind
    last_layers: int = 1
    """Number of the highest layers whose hidden states are concatenated."""
    first: int = 0
    """First token that mean, max and attention read, after the tokens before an image's patches."""


def pooling_spec(config: PreTrainedConfig, kind: PoolingKind, last_layers: int) -> PoolingSpec:
    """Return how a family is pooled.

    Raises:
        InputError: the family is not known, has no CLS token, or has too few layers of equal shape.
    """
    name, family = config.model_type, family_of(config)
    if family.head is None:
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
    """Return the mean over the tokens by their weights, summed in float32; shape (B, D)."""
    if mask_BT is None:
        return states_BTD.mean(1, dtype=torch.float32)
    mask_BT1 = mask_BT[:, :, None].float()
    return (states_BTD.float() * mask_BT1).sum(1) / mask_BT1.sum(1)


def masked_max(states_BTD: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    """Return the maximum of every feature over the tokens without padding; shape (B, D)."""
    if mask_BT is not None:
        states_BTD = states_BTD.masked_fill(mask_BT[:, :, None] == 0, -torch.inf)
    return states_BTD.amax(1)


class Pool(nn.Module):
    """Pool hidden states into one vector per row.

    Attention is a weighted mean (arXiv:1512.08756, with a linear score): the weight of a token is the softmax over the
    row of its product with one learned vector, the `query`, times its weight in the mask. A query of zero, as at the
    start, gives the mean.

    Args:
        spec: how to pool.
        width: D.
    """

    def __init__(self, spec: PoolingSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        if spec.kind == "attention":
            self.query = nn.Parameter(torch.zeros(width))

    def forward(self, states_BTD: torch.Tensor, mask_BT: torch.Tensor | None = None) -> torch.Tensor:
        """Return the pooled states, shape (B, D), in the dtype of the hidden states.

        Args:
            states_BTD: hidden states, shape (B, T, D).
            mask_BT: 0 for padding, 1 or another weight for tokens, shape (B, T); None: there is no padding.
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
                    scores_BT = scores_BT + mask_BT.float().log()
                pooled_BD = (states_BTD.float() * scores_BT.softmax(1)[:, :, None]).sum(1)
        return pooled_BD.to(states_BTD.dtype)

    def extra_repr(self) -> str:
        """Return the spec, which no sub-module shows."""
        return repr(self.spec)


def padded_chunks(vectors_WD: torch.Tensor, shares_BK: torch.Tensor) -> torch.Tensor:
    """Lay the vectors of each row's chunks side by side, as `Pool` reads tokens: (B, K, D).

    Args:
        vectors_WD: of all chunks, those of a row one after the other.
        shares_BK: how much each counts in its row; 0 where a row has no more chunks.
    """
    is_chunk_BK = shares_BK > 0
    # Read by numbers, not written by the mask, whose number of chunks no graph of ONNX knows beforehand.
    numbers_BK = (is_chunk_BK.flatten().cumsum(0) - 1).clamp(min=0).view(shares_BK.shape)
    return vectors_WD[numbers_BK].masked_fill(~is_chunk_BK[:, :, None], 0)


def last_states(last_BTD: torch.Tensor, hidden: tuple[torch.Tensor, ...] | None, last_layers: int) -> torch.Tensor:
    """Concatenate the hidden states of the highest layers, the last layer first; shape (B, T, D).

    Args:
        last_BTD: the encoder's `last_hidden_state`, after its final norm; or a feature map (B, D, H, W).
        hidden: the encoder's `hidden_states`, from the embeddings up; None if one layer is read.
        last_layers: number of layers.
    """
    if last_BTD.dim() == 4:
        last_BTD = last_BTD.flatten(2).transpose(1, 2)
    if last_layers == 1:
        return last_BTD
    assert hidden is not None, "several layers are read"
    return torch.cat([last_BTD, *(hidden[-n] for n in range(2, last_layers + 1))], -1)
