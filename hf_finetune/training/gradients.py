"""Gradients of a step, dense or row-sparse (`nn.Embedding.sparse`)."""

from collections.abc import Iterable

import torch
from torch import nn


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Clip the total norm of dense and row-sparse gradients, as `torch.nn.utils.clip_grad_norm_` clips dense ones.

    Returns:
        The norm before clipping, a scalar.
    """
    gradients = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            # Sum the entries of a repeated word first: the norm is the dense gradient's.
            parameter.grad = parameter.grad.coalesce()
            gradients.append(parameter.grad.values())
        elif parameter.grad is not None:
            gradients.append(parameter.grad)
    norm = nn.utils.get_total_norm(gradients)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    if gradients:
        torch._foreach_mul_(gradients, factor)
    return norm


def gradients_are_finite(model: nn.Module) -> bool:
    """Return whether all gradients are finite. Waits for the device once."""
    finite = [parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None]
    return not finite or bool(torch.stack(finite).all())
