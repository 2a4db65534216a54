"""InfoNCE between two embeddings of each row.

Legend: B rows of a batch, D embedding width.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def contrastive(one_BD: torch.Tensor, other_BD: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Cross-entropy of finding each row's other embedding, by its one, among those of all rows of the batch, by cosine.

    InfoNCE (arXiv:1807.03748): between two networks, as in CRD (arXiv:1910.10699), with the batch in place of a memory
    of other rows; or between two dropout masks of one (SimCSE, arXiv:2104.08821).

    Args:
        one_BD: embeddings; the student's, projected onto the teacher's width.
        other_BD: of the same rows; the teacher's.
        temperature: divides the cosines.

    Returns:
        Shape (B,), in nats.
    """
    one_BD, other_BD = (F.normalize(at_least_float32(x_BD), dim=-1) for x_BD in (one_BD, other_BD))
    scores_BB = one_BD @ other_BD.T / temperature
    return F.cross_entropy(scores_BB, torch.arange(len(scores_BB), device=scores_BB.device), reduction="none")


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """The tensor in float32, or in its own format where that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
