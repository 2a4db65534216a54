"""Supervised contrastive loss (arXiv:2004.11362) beside the loss against the labels (arXiv:2011.01403).

Its work is linear in the rows: the rows of a batch are compared with each other, not all pairs of rows.

Legend: B rows, C classes, D features.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from hf_finetune.models.modules import classification_layer
from hf_finetune.training.regularization.two_passes import TwoPasses


def contrastive_loss(features_BD: torch.Tensor, labels_B: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the mean over the rows of the loss L_out of the paper, for features that are normalized here.

    A row's loss is the mean, over the others of its class, of -log of their share in the sum of exp(cosine /
    temperature) over all others. Rows that are alone in their class have none.
    """
    unit_BD = nn.functional.normalize(features_BD.float(), dim=1)
    itself_BB = torch.eye(len(labels_B), dtype=torch.bool, device=labels_B.device)
    logits_BB = (unit_BD @ unit_BD.T / temperature).masked_fill(itself_BB, -torch.inf)
    alike_BB = (labels_B[:, None] == labels_B[None, :]) & ~itself_BB
    log_shares_BB = logits_BB.log_softmax(1).masked_fill(~alike_BB, 0.0)
    return -(log_shares_BB.sum(1) / alike_BB.sum(1).clamp(min=1)).mean()


class SupervisedContrast(TwoPasses):
    """Forwards each row twice, with different dropout, and adds the contrastive loss of what the head reads.

    Args:
        weight: weight of the contrastive loss; the one against the labels has the rest to 1.
        temperature: by which cosines are divided.
    """

    def __init__(self, weight: float, temperature: float) -> None:
        self.weight, self.temperature = weight, temperature
        self._features: list[torch.Tensor] = []

    def on_model(self, model: nn.Module) -> AbstractContextManager[None]:
        """Note what the head reads in each forward pass."""
        return self._noting(classification_layer(model))

    @contextmanager
    def _noting(self, layer: nn.Linear) -> Iterator[None]:
        def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self._features[:] = inputs[:1]

        handle = layer.register_forward_pre_hook(note)
        try:
            yield
        finally:
            handle.remove()
            self._features.clear()

    def joined(self, mean: torch.Tensor, one_BC: torch.Tensor, other_BC: torch.Tensor, targets: Any) -> torch.Tensor:
        """Add the contrast of all copies."""
        contrast = contrastive_loss(self._features[0], torch.cat([targets, targets]), self.temperature)
        # The trainer divides the sum by the rows of the step.
        return (1 - self.weight) * mean + self.weight * len(one_BC) * contrast
