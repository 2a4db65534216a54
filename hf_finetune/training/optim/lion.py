"""Lion: the sign of a momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.training.optim.base import OptimizerConfig, ParameterGroup
from hf_finetune.utils.config import Fraction, configclass

if TYPE_CHECKING:
    import torch


@configclass
class Lion(OptimizerConfig):
    """The sign of a momentum (arXiv:2302.06675): one state per weight in place of AdamW's two, and a lower rate."""

    beta1: Fraction = 0.9
    """Weight of the momentum in what the sign is taken of."""
    beta2: Fraction = 0.99
    """Share of the past that the momentum keeps at a step."""

    # The paper's advice.
    rate_factor = 0.1

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """See `OptimizerConfig.build`."""
        from hf_finetune.training.optim.foreach import ForeachOptimizer

        return ForeachOptimizer(groups, lr, self)

    def start(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """See `ForeachRule.start`."""
        import torch

        return {"momentum": torch.zeros_like(weight)}

    def update(
        self,
        weights: list[torch.Tensor],
        gradients: list[torch.Tensor],
        states: list[dict[str, torch.Tensor]],
        *,
        lr: float,
        weight_decay: float,
    ) -> None:
        """Program 1 of the paper: w <- w - lr (sign(beta1 m + (1 - beta1) g) + weight_decay w); m <- beta2 m + (1 -
        beta2) g."""
        import torch

        momenta = [state["momentum"] for state in states]
        updates = torch._foreach_lerp(momenta, gradients, 1 - self.beta1)
        torch._foreach_sign_(updates)
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
        torch._foreach_add_(weights, updates, alpha=-lr)
        torch._foreach_lerp_(momenta, gradients, 1 - self.beta2)
