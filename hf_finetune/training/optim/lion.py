"""Lion: the sign of a momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.training.optim.base import UpdateFormula
from hf_finetune.utils.config import Fraction, configclass

if TYPE_CHECKING:
    import torch

    from hf_finetune.training.optim.foreach import GroupStep


@configclass
class Lion(UpdateFormula):
    """The sign of a momentum (arXiv:2302.06675): one state per weight in place of AdamW's two, and a lower rate."""

    beta1: Fraction = 0.9
    """Weight of the momentum, beside the gradient, in the update's sign."""
    beta2: Fraction = 0.99
    """Decay of the momentum."""

    # The paper's advice.
    rate_factor = 0.1

    def initial_state(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return a momentum of 0."""
        import torch

        return {"momentum": torch.zeros_like(weight)}

    def update(self, step: GroupStep) -> None:
        """Apply program 1 of the paper: w <- w - lr (sign(beta1 m + (1 - beta1) g) + weight_decay w), then m <- beta2 m
        + (1 - beta2) g."""
        import torch

        momenta = step.state("momentum")
        updates = torch._foreach_lerp(momenta, step.gradients, 1 - self.beta1)
        torch._foreach_sign_(updates)
        torch._foreach_mul_(step.weights, 1 - step.lr * step.weight_decay)
        torch._foreach_add_(step.weights, updates, alpha=-step.lr)
        torch._foreach_lerp_(momenta, step.gradients, 1 - self.beta2)
