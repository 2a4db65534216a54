"""Functions that several distillation losses share: divergences, attention maps, means over tokens.

All compute in float32 or better.

Legend: B rows, T tokens, D width, H heads, E width of a head.
"""

import math

import torch
from torch.nn import functional as F

from hf_finetune.distillation.losses.base import Features
from hf_finetune.training.losses.contrastive import at_least_float32

# Attention score of padding: its softmax is exactly 0, and no gradient is infinite.
PADDING = -1e9


def kl_divergence(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Compute KL(p || q) over the last axis, in nats."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def mean_over_tokens(x_BT: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    """Compute the mean over each row's tokens (B,), without padding.

    Args:
        mask_BT: 0 for padding; None: no padding.
    """
    if mask_BT is None:
        return x_BT.mean(-1)
    real_BT = mask_BT.to(x_BT.dtype)
    return (x_BT * real_BT).sum(-1) / real_BT.sum(-1)


def squared_difference(
    student_BTD: torch.Tensor, teacher_BTD: torch.Tensor, mask_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the squared difference of hidden states (B,), the mean over features and tokens."""
    squares_BTD = (at_least_float32(student_BTD) - at_least_float32(teacher_BTD)).square()
    return mean_over_tokens(squares_BTD.mean(-1), mask_BT)


def log_attention(
    query_BTD: torch.Tensor, key_BTD: torch.Tensor, mask_BT: torch.Tensor | None = None, *, heads: int
) -> torch.Tensor:
    """Compute the logarithm of scaled dot-product attention: how much each token attends to each other token.

    Args:
        query_BTD, key_BTD: all heads side by side, D a multiple of `heads`. The same tensor twice gives MiniLMv2's
            relation among a layer's queries, keys or values (arXiv:2012.15828).
        mask_BT: 0 for padding, to which no token attends; None: no padding.
        heads: H.

    Returns:
        Shape (B, H, T, T), normalized over the last axis.
    """
    query_BHTE, key_BHTE = (
        at_least_float32(x).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query_BTD, key_BTD)
    )
    scores_BHTT = query_BHTE @ key_BHTE.transpose(-1, -2) / math.sqrt(query_BHTE.shape[-1])
    if mask_BT is not None:
        scores_BHTT = scores_BHTT.masked_fill(mask_BT[:, None, None, :] == 0, PADDING)
    return scores_BHTT.log_softmax(-1)


def log_attention_map(features: Features, layer: int, heads: int) -> torch.Tensor:
    """Compute the logarithm of the attention map of a layer, see `log_attention`."""
    projected = features.attention[layer]
    return log_attention(projected["query"], projected["key"], features.mask_BT, heads=heads)


def attention_kl(
    student_BHTT: torch.Tensor, teacher_BHTT: torch.Tensor, mask_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute KL(teacher || student) of attention (B,), the mean over heads and tokens, in nats (arXiv:2002.10957).

    Args:
        student_BHTT, teacher_BHTT: see `log_attention`.
        mask_BT: 0 for padding; None: no padding.
    """
    return mean_over_tokens(kl_divergence(teacher_BHTT, student_BHTT).mean(1), mask_BT)


def attention_mse(
    student_BHTT: torch.Tensor, teacher_BHTT: torch.Tensor, mask_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the squared difference of attention probabilities (B,), 2 at most, the mean over heads and tokens.

    It is summed over the last axis, whose probabilities share a mass of 1: their mean would shrink with the length of
    the row.

    Args:
        student_BHTT, teacher_BHTT: see `log_attention`.
        mask_BT: 0 for padding; None: no padding.
    """
    return mean_over_tokens((student_BHTT.exp() - teacher_BHTT.exp()).square().sum(-1).mean(1), mask_BT)


def mean_over_heads(log_BHTT: torch.Tensor) -> torch.Tensor:
    """Compute the logarithm of the mean probability over the heads, shape (B, 1, T, T)."""
    return log_BHTT.logsumexp(1, keepdim=True) - math.log(log_BHTT.shape[1])
