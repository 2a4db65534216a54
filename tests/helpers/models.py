"""Logits of models, and models whose weights all matter."""

import torch
from transformers import PreTrainedModel


def logits(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits of a batch, in the mode of the model."""
    with torch.no_grad():
        return model(**batch).logits


def randomized(model: PreTrainedModel) -> PreTrainedModel:
    """Add noise to norms, biases and layer scales, which start as ones and zeros."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()
