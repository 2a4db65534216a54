"""`torch.optim.Optimizer` for the update rules that are written in this package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from hf_finetune.training.optim.base import ParameterGroup


class BaseOptimizer(torch.optim.Optimizer, ABC):
    """An optimizer whose step is one method, run without gradients."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step, as `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update_weights()
        return loss

    @abstractmethod
    def update_weights(self) -> None:
        """Change the weights by their gradients."""


@dataclass(frozen=True)
class GroupStep:
    """A step of one parameter group: lists with an item per weight, for torch's `_foreach_` functions."""

    weights: list[torch.Tensor]
    gradients: list[torch.Tensor]
    states: list[dict[str, Any]]
    lr: float
    weight_decay: float

    def state(self, name: str) -> list[torch.Tensor]:
        """Return the state `name` of each weight."""
        return [state[name] for state in self.states]


class UpdateFormula(Protocol):
    """The formula of an optimizer."""

    def initial_state(self, weight: torch.Tensor) -> dict[str, Any]:
        """Return the state of a weight before its first step; checkpoints hold it."""

    def update(self, step: GroupStep) -> None:
        """Change weights and states in place."""


class ForeachOptimizer(BaseOptimizer):
    """Applies an update formula to all weights of a group at once.

    Args:
        groups: parameters.
        lr: peak learning rate of groups that name none.
        formula: the update.
    """

    def __init__(self, groups: list[ParameterGroup], lr: float, formula: UpdateFormula) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.formula = formula

    def update_weights(self) -> None:
        """Apply the formula to every group."""
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight] |= self.formula.initial_state(weight)
            gradients, states = [p.grad for p in weights], [self.state[p] for p in weights]
            self.formula.update(GroupStep(weights, gradients, states, group["lr"], group["weight_decay"]))
