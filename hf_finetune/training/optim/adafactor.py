"""Adafactor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from hf_finetune.training.optim.base import OptimizerConfig, ParameterGroup
from hf_finetune.utils.config import NonNegative, configclass

if TYPE_CHECKING:
    import torch


@configclass
class Adafactor(OptimizerConfig):
    """torch's Adafactor (arXiv:1804.04235): row and column sums of squares in place of all squares. The rate is
    relative to the size of the weights, and at most 1 / sqrt(step)."""

    beta2_decay: Annotated[float, Le(0)] = -0.8
    """Exponent of the decay of the mean of the squares: 1 - step^beta2_decay."""
    eps: NonNegative = 1e-3
    """Least size of the weights by which the rate is multiplied."""
    clip_threshold: Annotated[float, Ge(1)] = 1.0
    """Largest root mean square of an update; larger updates are scaled down."""

    # Untuned: gives updates of about AdamW's size where weights are near 0.04.
    rate_factor = 25.0

    def highest_rate(self, step: int) -> float:
        """Return torch's bound on the relative step."""
        return step**-0.5

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """Build torch's optimizer."""
        import torch

        return torch.optim.Adafactor(
            groups, lr=lr, beta2_decay=self.beta2_decay, eps=(None, self.eps), d=self.clip_threshold
        )
