"""`torch.optim.Optimizer` for the update rules that are written in this package."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


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


class ForeachOptimizer(BaseOptimizer):
    """Applies an update formula to all weights of a group at once.

    Args:
        groups: parameters.
        lr: peak learning rate of groups that name none.
        initial_state, update: the formula, see `base.UpdateFormula`.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        initial_state: Callable[[torch.Tensor], dict[str, Any]],
        update: Callable[[GroupStep], None],
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.initial_state, self.update = initial_state, update

    def update_weights(self) -> None:
        """Apply the formula to every group."""
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight] |= self.initial_state(weight)
            gradients, states = [p.grad for p in weights], [self.state[p] for p in weights]
            self.update(GroupStep(weights, gradients, states, group["lr"], group["weight_decay"]))
