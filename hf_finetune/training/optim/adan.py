"""Adan: Adam with a Nesterov momentum that needs no gradient elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_finetune.training.optim.base import OptimizerConfig, ParameterGroup
from hf_finetune.utils.config import Fraction, Positive, configclass

if TYPE_CHECKING:
    import torch


@configclass
class Adan(OptimizerConfig):
    """Adaptive Nesterov momentum (arXiv:2208.06677): AdamW that follows how the gradient changes; twice its memory."""

    beta1: Fraction = 0.98
    """Share of the past that the mean of the gradients keeps at a step; 1 less the paper's beta1, as below."""
    beta2: Fraction = 0.92
    """Share of the past that the mean of their changes keeps, and how far they are followed ahead."""
    beta3: Fraction = 0.99
    """Share of the past that the mean of the squares keeps."""
    eps: Positive = 1e-8
    """Added to the root of that mean before it divides."""

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """See `OptimizerConfig.build`."""
        from hf_finetune.training.optim.foreach import ForeachOptimizer

        return ForeachOptimizer(groups, lr, self)

    def start(self, weight: torch.Tensor) -> dict[str, Any]:
        """See `ForeachRule.start`."""
        import torch

        names = ("gradient_mean", "change_mean", "square_mean", "previous_gradient")
        return {"steps": 0, **{name: torch.zeros_like(weight) for name in names}}

    def update(
        self,
        weights: list[torch.Tensor],
        gradients: list[torch.Tensor],
        states: list[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float,
    ) -> None:
        """Algorithm 1 of the paper, with its code's correction of means that begin at 0."""
        import torch

        for gradient, state in zip(gradients, states, strict=True):
            state["steps"] += 1
            if state["steps"] == 1:
                state["previous_gradient"].copy_(gradient)
        steps = [state["steps"] for state in states]
        means, changes, squares, previous = (
            [state[name] for state in states]
            for name in ("gradient_mean", "change_mean", "square_mean", "previous_gradient")
        )
        differences = torch._foreach_sub(gradients, previous)
        torch._foreach_copy_(previous, gradients)
        torch._foreach_lerp_(means, gradients, 1 - self.beta1)
        torch._foreach_lerp_(changes, differences, 1 - self.beta2)
        ahead = torch._foreach_add(gradients, differences, alpha=self.beta2)
        torch._foreach_mul_(squares, self.beta3)
        torch._foreach_addcmul_(squares, ahead, ahead, 1 - self.beta3)
        scale = torch._foreach_div(squares, [1 - self.beta3**t for t in steps])
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, self.eps)
        updates = torch._foreach_div(means, [1 - self.beta1**t for t in steps])
        torch._foreach_add_(updates, torch._foreach_div(changes, [1 - self.beta2**t for t in steps]), alpha=self.beta2)
        torch._foreach_div_(updates, scale)
        torch._foreach_add_(weights, updates, alpha=-lr)
        torch._foreach_div_(weights, 1 + lr * weight_decay)
