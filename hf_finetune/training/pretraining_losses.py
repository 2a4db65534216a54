"""Losses of pretraining as pure functions: sums over what the mean of a step is over (masked tokens, or rows).

Legend: B rows, M tokens to be guessed, V tokens of the vocabulary, D width, C channels, H and W pixels.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def masked_tokens(logits_MV: torch.Tensor, tokens_M: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of tokens that were left out, summed, in float32 (BERT, arXiv:1810.04805).

    Args:
        logits_MV: shape (M, V).
        tokens_M: shape (M,), what stood there.

    Returns:
        Scalar, in nats.
    """
    return F.cross_entropy(logits_MV.float(), tokens_M, reduction="sum")


def contrastive(one_BD: torch.Tensor, other_BD: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Cross-entropy of finding each row's other view among those of all rows, by cosine, summed (SimCSE, arXiv:2104.08821).

    Unlike the other losses a row's depends on the rows beside it: those of its forward pass.

    Args:
        one_BD: vectors of the rows, shape (B, D).
        other_BD: vectors of the same rows under another dropout mask.
        temperature: divides the cosines.

    Returns:
        Scalar, in nats.
    """
    one_BD, other_BD = F.normalize(one_BD.float(), dim=-1), F.normalize(other_BD.float(), dim=-1)
    return F.cross_entropy(
        one_BD @ other_BD.T / temperature, torch.arange(len(one_BD)).to(one_BD.device), reduction="sum"
    )


def masked_pixels(guessed_BCHW: torch.Tensor, pixels_BCHW: torch.Tensor, masked_BHW: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of each row's pixels that were left out, summed over rows (SimMIM, arXiv:2111.09886).

    Args:
        guessed_BCHW, pixels_BCHW: shape (B, C, H, W).
        masked_BHW: shape (B, H, W), true where pixels were left out; somewhere in each row.

    Returns:
        Scalar, in units of the normalised pixels.
    """
    differences_BHW = (guessed_BCHW.float() - pixels_BCHW.float()).abs().mean(1) * masked_BHW
    return (differences_BHW.sum((1, 2)) / masked_BHW.sum((1, 2))).sum()
