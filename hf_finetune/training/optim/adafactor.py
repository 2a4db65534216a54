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
    """Adafactor (arXiv:1804.04235), torch's: row and column sums of squares in place of all squares; the rate is
    relative to the size of the weights, and never above 1 / sqrt(step)."""

    beta2_decay: Annotated[float, Le(0)] = -0.8
    """The mean of the squares forgets by step^beta2_decay."""
    eps: NonNegative = 1e-3
    """Least size of a weight that the rate is multiplied by."""
    clip_threshold: Annotated[float, Ge(1)] = 1.0
    """Updates of a larger root mean square are scaled down to it."""

    # Untuned: brings an update to about AdamW's size where weights are near 0.04.
    rate_factor = 25.0

    def highest_rate(self, step: int) -> float:
        """See `OptimizerConfig.highest_rate`."""
        return step**-0.5

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """See `OptimizerConfig.build`."""
        import torch

        return torch.optim.Adafactor(
            groups, lr=lr, beta2_decay=self.beta2_decay, eps=(None, self.eps), d=self.clip_threshold
        )
