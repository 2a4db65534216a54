"""The difference of two predictions of a row, by how logits become predictions.

Legend: B rows, C outputs.
"""

import torch
from torch.nn import functional as F

from hf_finetune.data.config import Activation


def divergence(
    one_BC: torch.Tensor, other_BC: torch.Tensor, activation: Activation, temperature: float = 1.0
) -> torch.Tensor:
    """Compute how far the second predictions are from the first, in float32.

    Args:
        one_BC: logits of the predictions that count as true, shape (B, C).
        other_BC: logits of the others, shape (B, C).
        temperature: divides both logits; the result is multiplied by its square, as its gradient shrinks with that. Of
            numbers it cancels out.

    Returns:
        Shape (B,). softmax: KL divergence, in nats (arXiv:1503.02531); sigmoid: the sum of that of each output;
        identity: the mean squared difference.
    """
    if activation == "identity":
        return (one_BC.float() - other_BC.float()).square().mean(-1)
    one_BC, other_BC = one_BC.float() / temperature, other_BC.float() / temperature
    if activation == "softmax":
        log_p_BC, log_q_BC = F.log_softmax(one_BC, -1), F.log_softmax(other_BC, -1)
        return temperature**2 * F.kl_div(log_q_BC, log_p_BC, reduction="none", log_target=True).sum(-1)
    present_BC = torch.sigmoid(one_BC) * (F.logsigmoid(one_BC) - F.logsigmoid(other_BC))
    absent_BC = torch.sigmoid(-one_BC) * (F.logsigmoid(-one_BC) - F.logsigmoid(-other_BC))
    return temperature**2 * (present_BC + absent_BC).sum(-1)


def symmetric_divergence(one_BC: torch.Tensor, other_BC: torch.Tensor, activation: Activation) -> torch.Tensor:
    """Compute half of the divergences in both directions, summed over rows, in float32: a scalar."""
    if activation == "identity":
        return divergence(one_BC, other_BC, activation).sum()
    one_BC, other_BC = one_BC.float(), other_BC.float()
    if activation == "softmax":
        log_p_BC, log_q_BC = F.log_softmax(one_BC, -1), F.log_softmax(other_BC, -1)
        return 0.5 * ((log_p_BC.exp() - log_q_BC.exp()) * (log_p_BC - log_q_BC)).sum()
    # The logarithm of the odds is the logit.
    return 0.5 * ((torch.sigmoid(one_BC) - torch.sigmoid(other_BC)) * (one_BC - other_BC)).sum()
