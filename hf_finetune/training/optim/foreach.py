"""The part of `torch.optim.Optimizer` that is the same for all optimizers written here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch

from hf_finetune.training.optim.base import ParameterGroup


class ForeachRule(Protocol):
    """An optimizer's algorithm: what it remembers of a weight, and one step over all weights of a group at once."""

    def start(self, weight: torch.Tensor) -> dict[str, Any]:
        """State of a weight before its first step; all of it goes into the checkpoints."""

    def update(
        self,
        weights: list[torch.Tensor],
        gradients: list[torch.Tensor],
        states: list[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float,
    ) -> None:
        """Change weights and states in place."""


class WholeStepOptimizer(torch.optim.Optimizer, ABC):
    """An optimizer whose step is written as one method without gradients."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, as `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update_weights()
        return loss

    @abstractmethod
    def update_weights(self) -> None:
        """Change the weights by their gradients."""


class ForeachOptimizer(WholeStepOptimizer):
    """Takes the steps of an update rule: over whole lists of tensors, where packages go parameter by parameter.

    Args:
        groups: parameters.
        lr: peak learning rate of groups that name none.
        rule: the algorithm.
    """

    def __init__(self, groups: list[ParameterGroup], lr: float, rule: ForeachRule) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.rule = rule

    def update_weights(self) -> None:
        """A step of the rule for every group."""
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight] |= self.rule.start(weight)
            gradients, states = [p.grad for p in weights], [self.state[p] for p in weights]
            self.rule.update(weights, gradients, states, lr=group["lr"], weight_decay=group["weight_decay"])
