"""What a row costs a student whose inside is to be like its teacher's: pure functions, beside `distillation_losses`.

A row is the mean over its own tokens, so that long and short rows count the same and padding not at all. Nothing flows back
into what is the teacher's. All is computed in float32 at least.

Legend: B rows, T tokens, D width, H heads.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from hf_finetune.training.losses.contrastive import at_least_float32

# Of a token that is padding: its share of the softmax is exactly 0, and no gradient is infinite.
MASKED = -1e9


def hidden_states(
    student_BTD: torch.Tensor, teacher_BTD: torch.Tensor, mask_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """Squared difference of each token's state, the mean over features and tokens (arXiv:1909.10351).

    Args:
        student_BTD: the student's, projected onto the teacher's width.
        teacher_BTD: the teacher's.
        mask_BT: 0 for padding; None: there is none.

    Returns:
        Shape (B,).
    """
    return _mean_over_tokens((at_least_float32(student_BTD) - at_least_float32(teacher_BTD)).square().mean(-1), mask_BT)


def log_attention(
    query_BTD: torch.Tensor, key_BTD: torch.Tensor, mask_BT: torch.Tensor | None = None, *, heads: int
) -> torch.Tensor:
    """Logarithms of scaled dot-product attention: how much each token attends to each other one.

    Args:
        query_BTD: all heads side by side, D a multiple of `heads`; likewise the keys. The same tensor twice gives MiniLMv2's
            relation of a layer's queries, keys or values among themselves (arXiv:2012.15828).
        mask_BT: 0 for padding, to which nobody attends; None: there is none.
        heads: H.

    Returns:
        Shape (B, H, T, T), the last axis over the tokens that are attended to.
    """
    query_BHTE, key_BHTE = (
        at_least_float32(x).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query_BTD, key_BTD)
    )
    scores_BHTT = query_BHTE @ key_BHTE.transpose(-1, -2) / math.sqrt(query_BHTE.shape[-1])
    if mask_BT is not None:
        scores_BHTT = scores_BHTT.masked_fill(mask_BT[:, None, None, :] == 0, MASKED)
    return scores_BHTT.log_softmax(-1)


def attention_kl(
    student_BHTT: torch.Tensor, teacher_BHTT: torch.Tensor, mask_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """KL(teacher || student) of what each token attends to, the mean over heads and tokens (arXiv:2002.10957).

    Args:
        student_BHTT: see `log_attention`; likewise the teacher's.
        mask_BT: 0 for padding; None: there is none.

    Returns:
        Shape (B,), in nats.
    """
    kl_BHT = F.kl_div(student_BHTT, teacher_BHTT, reduction="none", log_target=True).sum(-1)
    return _mean_over_tokens(kl_BHT.mean(1), mask_BT)


def attention_mse(
    student_BHTT: torch.Tensor, teacher_BHTT: torch.Tensor, mask_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """Squared difference of the attention's probabilities, the sum over the tokens attended to, the mean over heads and
    tokens.

    The sum, because the probabilities of a token share a mass of 1: their mean would shrink with the length of the row.

    Args:
        student_BHTT: see `log_attention`; likewise the teacher's.
        mask_BT: 0 for padding; None: there is none.

    Returns:
        Shape (B,), 2 at most.
    """
    return _mean_over_tokens((student_BHTT.exp() - teacher_BHTT.exp()).square().sum(-1).mean(1), mask_BT)


def mean_over_heads(log_BHTT: torch.Tensor) -> torch.Tensor:
    """Logarithm of the mean probability over the heads, shape (B, 1, T, T)."""
    return log_BHTT.logsumexp(1, keepdim=True) - math.log(log_BHTT.shape[1])


def cosine(student_BD: torch.Tensor, teacher_BD: torch.Tensor) -> torch.Tensor:
    """1 minus the cosine between each row's two embeddings, shape (B,): 0 where they point the same way, 2 at most."""
    return 1 - F.cosine_similarity(at_least_float32(student_BD), at_least_float32(teacher_BD), dim=-1)


def relational_distance(student_BD: torch.Tensor, teacher_BD: torch.Tensor) -> torch.Tensor:
    """Huber loss between the two networks' distances from each row to the others (arXiv:1904.05068, distance-wise).

    Each network's distances are divided by their mean over the pairs of the batch, so that neither scale nor width matters.

    Args:
        student_BD: embeddings, of any width; likewise the teacher's.

    Returns:
        Shape (B,): the mean over the other rows; 0 where there is none.
    """
    rows = len(student_BD)
    if rows < 2:
        return _nothing(student_BD)
    other_BB = ~torch.eye(rows, dtype=torch.bool, device=student_BD.device)

    def relative(x_BD: torch.Tensor) -> torch.Tensor:
        distance_BO = _differences(x_BD).norm(dim=-1)[other_BB].view(rows, -1)
        return distance_BO / distance_BO.mean().clamp_min(torch.finfo(distance_BO.dtype).tiny)

    return F.smooth_l1_loss(relative(student_BD), relative(teacher_BD), reduction="none").mean(-1)


def relational_angle(student_BD: torch.Tensor, teacher_BD: torch.Tensor) -> torch.Tensor:
    """Huber loss between the cosines of the angles under which each row sees two others (arXiv:1904.05068, angle-wise).

    Two rows that a network hardly tells apart, nearer than `NEAREST` times its mean distance, have a direction shorter than
    1: that of rounding, at full length, would send gradients of any size back.

    Args:
        student_BD: embeddings, of any width; likewise the teacher's.

    Returns:
        Shape (B,): the mean over the pairs of other rows; 0 where there is no pair.
    """
    rows = len(student_BD)
    if rows < 3:
        return _nothing(student_BD)
    different_BB = ~torch.eye(rows, dtype=torch.bool, device=student_BD.device)
    # The row in the corner, and the two that it sees, all three different.
    triple_BBB = different_BB[:, :, None] & different_BB[:, None, :] & different_BB[None]

    def cosines(x_BD: torch.Tensor) -> torch.Tensor:
        way_BBD = _differences(x_BD)
        distance_BB1 = way_BBD.norm(dim=-1, keepdim=True)
        nearest = NEAREST * distance_BB1.detach().mean()
        way_BBD = way_BBD / distance_BB1.clamp_min(nearest.clamp_min(torch.finfo(nearest.dtype).tiny))
        return (way_BBD @ way_BBD.transpose(1, 2))[triple_BBB].view(rows, -1)

    return F.smooth_l1_loss(cosines(student_BD), cosines(teacher_BD), reduction="none").mean(-1)


NEAREST = 0.01
ATTENTION = {"kl": attention_kl, "mse": attention_mse}


def _mean_over_tokens(x_BT: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    if mask_BT is None:
        return x_BT.mean(-1)
    real_BT = mask_BT.to(x_BT.dtype)
    return (x_BT * real_BT).sum(-1) / real_BT.sum(-1)


def _differences(x_BD: torch.Tensor) -> torch.Tensor:
    """Of every row and every other one, shape (B, B, D)."""
    x_BD = at_least_float32(x_BD)
    return x_BD[None] - x_BD[:, None]


def _nothing(x_BD: torch.Tensor) -> torch.Tensor:
    """0 of each row, with a gradient of 0: every weight takes part in every step, as processes that share gradients need it."""
    return 0 * at_least_float32(x_BD).sum(-1)
