"""Adan: Adam with Nesterov momentum, without a gradient at a second point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_finetune.training.optim.base import UpdateFormula
from hf_finetune.utils.config import Fraction, Positive, configclass

if TYPE_CHECKING:
    import torch

    from hf_finetune.training.optim.foreach import GroupStep


@configclass
class Adan(UpdateFormula):
    """Adaptive Nesterov momentum (arXiv:2208.06677): AdamW that follows how the gradient changes; twice its memory."""

    beta1: Fraction = 0.98
    """Decay of the running mean of the gradients; 1 minus the paper's beta1, as below."""
    beta2: Fraction = 0.92
    """Decay of the running mean of the gradients' changes, and the weight of the changes in the update."""
    beta3: Fraction = 0.99
    """Decay of the running mean of the squares."""
    eps: Positive = 1e-8
    """Added to the root of that mean in the denominator."""

    def initial_state(self, weight: torch.Tensor) -> dict[str, Any]:
        """Return running means of 0."""
        import torch

        names = ("gradient_mean", "change_mean", "square_mean", "previous_gradient")
        return {"steps": 0, **{name: torch.zeros_like(weight) for name in names}}

    def update(self, step: GroupStep) -> None:
        """Apply algorithm 1 of the paper, with its code's bias correction of the means."""
        import torch

        for gradient, state in zip(step.gradients, step.states, strict=True):
            state["steps"] += 1
            if state["steps"] == 1:
                state["previous_gradient"].copy_(gradient)
        counts = [state["steps"] for state in step.states]
        means, changes, squares = step.state("gradient_mean"), step.state("change_mean"), step.state("square_mean")
        previous = step.state("previous_gradient")
        differences = torch._foreach_sub(step.gradients, previous)
        torch._foreach_copy_(previous, step.gradients)
        torch._foreach_lerp_(means, step.gradients, 1 - self.beta1)
        torch._foreach_lerp_(changes, differences, 1 - self.beta2)
        ahead = torch._foreach_add(step.gradients, differences, alpha=self.beta2)
        torch._foreach_mul_(squares, self.beta3)
        torch._foreach_addcmul_(squares, ahead, ahead, 1 - self.beta3)
        scale = torch._foreach_div(squares, [1 - self.beta3**t for t in counts])
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, self.eps)
        updates = torch._foreach_div(means, [1 - self.beta1**t for t in counts])
        torch._foreach_add_(updates, torch._foreach_div(changes, [1 - self.beta2**t for t in counts]), alpha=self.beta2)
        torch._foreach_div_(updates, scale)
        torch._foreach_add_(step.weights, updates, alpha=-step.lr)
        torch._foreach_div_(step.weights, 1 + step.lr * step.weight_decay)
