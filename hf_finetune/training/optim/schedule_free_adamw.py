"""Schedule-free AdamW: an average over the steps in place of a falling rate."""

from __future__ import annotations

import torch
from accelerate.optimizer import AcceleratedOptimizer

from hf_finetune.training.optim.base import ParameterGroup
from hf_finetune.training.optim.foreach import WholeStepOptimizer


class ScheduleFreeAdamW(WholeStepOptimizer):
    """AdamW on fast weights z, judged by their average x (https://arxiv.org/abs/2405.15682, algorithm 1).

    Gradients are taken at y = (1 - beta1) z + beta1 x. z takes AdamW's step without a first moment; x moves to z by the
    step's share c of all weights so far. The model holds y in `train()` mode, x in `eval()` mode: `eval()` comes before
    whatever evaluates or saves. y waits in the state meanwhile, so that going to and fro changes no bit, and a saved
    state taken in `eval()` mode goes on exactly. That is why it is written here: the authors' package computes y from x
    and z again, so that a checkpoint within an epoch would alter the run.

    Args:
        params: groups of parameters.
        lr: learning rate after the warm-up, which a schedule does.
        betas: beta1, above 0, and beta2.
        eps: added to the root of the second moment.
        weight_decay: decoupled, at y.
        r, weight_lr_power: step t counts in the average by t^r times the highest rate so far to the `weight_lr_power`.
    """

    def __init__(
        self,
        params: list[ParameterGroup],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
    ) -> None:
        own = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "r": r}
        own |= {"weight_lr_power": weight_lr_power, "steps": 0, "highest_lr": 0.0, "weight_sum": 0.0, "training": True}
        super().__init__(params, own)

    @torch.no_grad()
    def eval(self) -> None:
        """Put the average x into the model."""
        for group in self.param_groups:
            if group["training"]:
                group["training"] = False
                for weight in group["params"]:
                    if state := self.state.get(weight):
                        state["y"] = weight.clone()
                        weight.lerp_(state["z"], 1 - 1 / group["betas"][0])

    @torch.no_grad()
    def train(self) -> None:
        """Put y, where gradients are taken, into the model again."""
        for group in self.param_groups:
            if not group["training"]:
                group["training"] = True
                for weight in group["params"]:
                    if state := self.state.get(weight):
                        weight.copy_(state.pop("y"))

    def update_weights(self) -> None:
        """One step, in `train()` mode."""
        for group in self.param_groups:
            assert group["training"], "train() comes before step()"
            lr, (beta1, beta2) = group["lr"], group["betas"]
            group["steps"] += 1
            group["highest_lr"] = max(lr, group["highest_lr"])
            share = group["steps"] ** group["r"] * group["highest_lr"] ** group["weight_lr_power"]
            group["weight_sum"] += share
            # A warm-up begins at a rate of 0: nothing has moved, nothing is averaged.
            c = share / group["weight_sum"] if group["weight_sum"] else 0.0
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight] |= {"z": weight.clone(), "exp_avg_sq": torch.zeros_like(weight), "steps": 0}
                # Its own, not the group's: with gradual unfreezing weights begin later, their squares at 0.
                self.state[weight]["steps"] += 1
            z = [self.state[p]["z"] for p in weights]
            squares = [self.state[p]["exp_avg_sq"] for p in weights]
            gradients = [p.grad for p in weights]
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
            scale = torch._foreach_div(squares, [1 - beta2 ** self.state[p]["steps"] for p in weights])
            torch._foreach_sqrt_(scale)
            torch._foreach_add_(scale, group["eps"])
            updates = torch._foreach_div(gradients, scale)
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
            # y' = (1 - beta1) z' + beta1 x' with x' = (1 - c) x + c z', said by y, z and the update alone.
            torch._foreach_lerp_(weights, z, c)
            torch._foreach_add_(weights, updates, alpha=lr * (beta1 * (1 - c) - 1))
            torch._foreach_sub_(z, updates, alpha=lr)


def show_average(optimizer: torch.optim.Optimizer | None) -> None:
    """A schedule-free optimizer puts its average into the model, until the next step: that is judged and saved."""
    inner = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    if isinstance(inner, ScheduleFreeAdamW):
        inner.eval()
