"""Lion: the sign of a momentum."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

Parameters = Iterable[torch.Tensor] | Iterable[dict[str, Any]]


class Lion(torch.optim.Optimizer):
    """Evolved sign momentum (https://arxiv.org/abs/2302.06675, program 1).

    update = sign(beta1 m + (1 - beta1) g); w <- w - lr (update + weight_decay w); m <- beta2 m + (1 - beta2) g.
    Written here, not taken from a package: the packages go parameter by parameter, this goes over all at once.

    Args:
        params: tensors, or groups of them.
        lr: learning rate; a third to a tenth of AdamW's.
        betas: beta1, beta2.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-5,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step, as `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            gradients = [p.grad for p in weights]
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
            momenta = [self.state[p]["momentum"] for p in weights]
            beta1, beta2 = group["betas"]
            updates = torch._foreach_lerp(momenta, gradients, 1 - beta1)
            torch._foreach_sign_(updates)
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, updates, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - beta2)
        return loss
