"""Losses of pretraining as pure functions: sums over what the mean of a step is over (masked tokens, or rows).

SimCSE's is `representation_losses.contrastive`.

Legend: B rows, M tokens to be guessed, V tokens of the vocabulary, C channels, H and W pixels.
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
