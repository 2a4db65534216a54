"""What a row costs a student that is to answer like its teacher: pure functions, beside those of `losses`.

A row's loss depends on that row alone, so that the mean over a step is exact however the step is cut. Nothing flows back
into the teacher's logits.

Legend: B rows, C classes.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def soft_targets(logits_BC: torch.Tensor, teacher_BC: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """T^2 KL(teacher || student) of each row, both softened by the temperature T (arXiv:1503.02531), in float32.

    The gradient shrinks with 1 / T^2; the factor makes up for it.

    Args:
        logits_BC: the student's, shape (B, C).
        teacher_BC: the teacher's, likewise.
        temperature: T, above 0; the higher, the more the classes count that the teacher does not answer.

    Returns:
        Shape (B,), in nats.
    """
    log_q_BC = F.log_softmax(logits_BC.float() / temperature, -1)
    log_p_BC = F.log_softmax(teacher_BC.float() / temperature, -1)
    return temperature**2 * _kl(log_p_BC, log_q_BC)


def hard_label(logits_BC: torch.Tensor, teacher_BC: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row against the class that the teacher answers (DeiT, arXiv:2012.12877), in float32.

    Args:
        logits_BC: the student's, shape (B, C).
        teacher_BC: the teacher's, likewise.

    Returns:
        Shape (B,), in nats.
    """
    return F.cross_entropy(logits_BC.float(), teacher_BC.argmax(-1), reduction="none")


def match_logits(logits_BC: torch.Tensor, teacher_BC: torch.Tensor) -> torch.Tensor:
    """Squared difference of the logits, the mean over the classes (arXiv:1312.6184, arXiv:2105.08919), in float32.

    Args:
        logits_BC: the student's, shape (B, C).
        teacher_BC: the teacher's, likewise.

    Returns:
        Shape (B,).
    """
    return (logits_BC.float() - teacher_BC.float()).square().mean(-1)


def decoupled_kd(
    logits_BC: torch.Tensor,
    teacher_BC: torch.Tensor,
    labels_B: torch.Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float,
) -> torch.Tensor:
    """The soft targets of each row in two parts that are weighed apart (arXiv:2203.08679), in float32.

    T^2 (alpha target + beta others): target is KL(teacher || student) of "the label or another class", others that among
    the other classes alone. `soft_targets` is target + (1 - p) others, p the teacher's probability of the label: the
    surer the teacher, the less it tells of the others.

    Args:
        logits_BC: the student's, shape (B, C).
        teacher_BC: the teacher's, likewise.
        labels_B: shape (B,), class indices.
        alpha: weight of the target's part.
        beta: weight of the others' part, which is 0 where there are two classes.
        temperature: T, above 0.

    Returns:
        Shape (B,), in nats.
    """
    is_other_BC = F.one_hot(labels_B, logits_BC.shape[1]) == 0

    def parts(scaled_BC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logarithms of the probabilities: of the label and of any other (B, 2), among the others (B, C - 1)."""
        others_BO = scaled_BC[is_other_BC].view(len(scaled_BC), -1)
        label_B1 = scaled_BC.gather(1, labels_B[:, None])
        pair_B2 = torch.cat([label_B1, others_BO.logsumexp(-1, keepdim=True)], -1)
        return F.log_softmax(pair_B2, -1), F.log_softmax(others_BO, -1)

    target_B2, others_BO = parts(logits_BC.float() / temperature)
    teacher_target_B2, teacher_others_BO = parts(teacher_BC.float() / temperature)
    return temperature**2 * (alpha * _kl(teacher_target_B2, target_B2) + beta * _kl(teacher_others_BO, others_BO))


def _kl(log_p_BC: torch.Tensor, log_q_BC: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of each row, shape (B,)."""
    return F.kl_div(log_q_BC, log_p_BC, reduction="none", log_target=True).sum(-1)
