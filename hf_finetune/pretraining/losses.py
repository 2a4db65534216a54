"""Losses of pretraining as pure functions: sums over what the mean of a step is over (masked tokens, or rows).

SimCSE's is `training.losses.contrastive`.

Legend: B rows, M tokens or patches to be guessed, V tokens of the vocabulary, C channels, H and W pixels, E values of a
patch's pixels, D width. In `nt_xent` V is the views of all rows.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

# Added to the variance of a patch, which may be of one colour (the authors' code of MAE).
EPSILON = 1e-6


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


def unseen_patches(guessed_BME: torch.Tensor, pixels_BME: torch.Tensor, *, normalise: bool) -> torch.Tensor:
    """Mean squared difference of each row's patches that were left out, summed over rows (MAE, arXiv:2111.06377).

    Args:
        guessed_BME: shape (B, M, E).
        pixels_BME: shape (B, M, E), what was there.
        normalise: compare with each patch less its mean and divided by its standard deviation (of a sample, by E - 1).

    Returns:
        Scalar, in units of the normalised pixels, squared; or without unit.
    """
    wanted_BME = pixels_BME.float()
    if normalise:
        variance_BM1, mean_BM1 = torch.var_mean(wanted_BME, -1, keepdim=True)
        wanted_BME = (wanted_BME - mean_BM1) / (variance_BM1 + EPSILON).sqrt()
    return (guessed_BME.float() - wanted_BME).square().mean((1, 2)).sum()


def nt_xent(one_BD: torch.Tensor, other_BD: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Cross-entropy of finding each view's other one, by cosine, among all views but itself (SimCLR, arXiv:2002.05709).

    Unlike `training.losses.contrastive`, which tells a row from the others' second views alone.

    Args:
        one_BD, other_BD: embeddings of the same rows in two views.
        temperature: divides the cosines.

    Returns:
        Shape (B,), in nats: the mean over a row's two views.
    """
    views_VD = F.normalize(torch.cat([one_BD, other_BD]).float(), dim=-1)
    itself_VV = torch.eye(len(views_VD), dtype=torch.bool, device=views_VD.device)
    scores_VV = (views_VD @ views_VD.T / temperature).masked_fill(itself_VV, -torch.inf)
    other_V = torch.arange(len(views_VD), device=views_VD.device).roll(len(one_BD))
    return F.cross_entropy(scores_VV, other_V, reduction="none").view(2, -1).mean(0)
