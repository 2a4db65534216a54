"""Schedule-free AdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.training.optim.base import OptimizerConfig, ParameterGroup
from hf_finetune.utils.config import Fraction, NonNegative, OpenFraction, Positive, configclass

if TYPE_CHECKING:
    import torch


@configclass
class ScheduleFree(OptimizerConfig):
    """AdamW whose average over the steps takes the place of a falling rate (arXiv:2405.15682): what is evaluated and
    saved is the average. Its schedule is constant_with_warmup."""

    beta1: OpenFraction = 0.9
    """Where between the fast weights (0) and their average (1) the gradient is taken."""
    beta2: Fraction = 0.999
    """Share of the past that the mean of the squares keeps at a step."""
    eps: Positive = 1e-8
    """Added to the root of that mean before it divides."""
    r: NonNegative = 0.0
    """A step counts in the average by its number to this power."""
    weight_lr_power: NonNegative = 2.0
    """And by the highest rate so far to this power."""

    default_schedule = "constant_with_warmup"
    averages_weights = True

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """See `OptimizerConfig.build`."""
        from hf_finetune.training.optim.schedule_free_adamw import ScheduleFreeAdamW

        return ScheduleFreeAdamW(
            groups,
            lr=lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            r=self.r,
            weight_lr_power=self.weight_lr_power,
        )
