"""InfoNCE between two embeddings of each row.

Legend: B rows of a batch, D embedding width.
"""

import torch
from torch.nn import functional as F


def contrastive(one_BD: torch.Tensor, other_BD: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Compute InfoNCE (arXiv:1807.03748): the cross-entropy of picking a row's second embedding by cosine similarity
    with its first, among the second embeddings of all rows of the batch.

    The embeddings come from two networks, as in CRD (arXiv:1910.10699) but without its memory bank, or from two dropout
    masks of one network (SimCSE, arXiv:2104.08821).

    Args:
        one_BD: first embeddings, such as the student's, projected to the teacher's width.
        other_BD: second embeddings of the same rows, such as the teacher's.
        temperature: divides the cosines.

    Returns:
        Shape (B,), in nats.
    """
    one_BD, other_BD = (F.normalize(at_least_float32(x_BD), dim=-1) for x_BD in (one_BD, other_BD))
    scores_BB = one_BD @ other_BD.T / temperature
    return F.cross_entropy(scores_BB, torch.arange(len(scores_BB), device=scores_BB.device), reduction="none")


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Convert to float32; keep a wider format."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
