"""Schedule-free AdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.training.optim.base import AdamConfig, ParameterGroup
from hf_finetune.utils.config import NonNegative, OpenFraction, configclass

if TYPE_CHECKING:
    import torch


@configclass
class ScheduleFree(AdamConfig):
    """AdamW with weight averaging in place of a falling learning rate (arXiv:2405.15682). The averaged weights are
    evaluated and saved. Its schedule is constant_with_warmup."""

    beta1: OpenFraction = 0.9
    """Position at which gradients are taken, from the fast weights (0) to their average (1)."""
    r: NonNegative = 0.0
    """A step counts in the average with this power of its number."""
    weight_lr_power: NonNegative = 2.0
    """A step also counts with this power of the highest learning rate so far."""

    default_schedule = "constant_with_warmup"
    averages_weights = True

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """Build the optimizer."""
        from hf_finetune.training.optim.schedule_free_adamw import ScheduleFreeAdamW

        return ScheduleFreeAdamW(
            groups,
            lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            r=self.r,
            weight_lr_power=self.weight_lr_power,
        )
