"""Schedule-free AdamW: weight averaging in place of a falling learning rate."""

import torch

from hf_finetune.training.optim.base import ParameterGroup
from hf_finetune.training.optim.foreach import BaseOptimizer


class ScheduleFreeAdamW(BaseOptimizer):
    """AdamW on fast weights z, evaluated at their average x (https://arxiv.org/abs/2405.15682, algorithm 1).

    Gradients are taken at y = (1 - beta1) z + beta1 x. z takes AdamW's step without a first moment. Then x moves
    towards z by c, the weight of the step in the average divided by the sum of all weights so far. The weight of step t
    is t^r times the `weight_lr_power`-th power of the highest learning rate so far.

    The model holds y in `train()` mode and x in `eval()` mode. Call `eval()` before evaluating or saving. The state
    stores y meanwhile, so that switching is exact and a state saved in `eval()` mode resumes exactly. The authors'
    package recomputes y from x and z, and so a checkpoint within an epoch would alter the run.

    Args:
        groups: parameters. Weight decay is decoupled and applied at y.
        lr: learning rate after the warm-up. The warm-up is a part of the schedule.
        betas: beta1, above 0, and beta2.
        eps: added to the root of the second moment.
        r: power of the step's number in its weight.
        weight_lr_power: power of the highest learning rate in that weight.
    """

    def __init__(
        self,
        groups: list[ParameterGroup],
        lr: float,
        *,
        betas: tuple[float, float],
        eps: float,
        r: float,
        weight_lr_power: float,
    ) -> None:
        counters = {"steps": 0, "highest_lr": 0.0, "weight_sum": 0.0, "training": True}
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, **counters})
        self.betas, self.eps, self.r, self.weight_lr_power = betas, eps, r, weight_lr_power

    @torch.no_grad()
    def eval(self) -> None:
        """Put the average x into the model."""
        for group in self.param_groups:
            if group["training"]:
                group["training"] = False
                for weight in group["params"]:
                    if state := self.state.get(weight):
                        state["y"] = weight.clone()
                        weight.lerp_(state["z"], 1 - 1 / self.betas[0])

    @torch.no_grad()
    def train(self) -> None:
        """Put y, where gradients are taken, back into the model."""
        for group in self.param_groups:
            if not group["training"]:
                group["training"] = True
                for weight in group["params"]:
                    if state := self.state.get(weight):
                        weight.copy_(state.pop("y"))

    def update_weights(self) -> None:
        """Take a step in `train()` mode."""
        beta1, beta2 = self.betas
        for group in self.param_groups:
            assert group["training"], "train() comes before step()"
            lr = group["lr"]
            group["steps"] += 1
            group["highest_lr"] = max(lr, group["highest_lr"])
            share = group["steps"] ** self.r * group["highest_lr"] ** self.weight_lr_power
            group["weight_sum"] += share
            # 0 at the start of a warm-up, where the rate is 0.
            c = share / group["weight_sum"] if group["weight_sum"] else 0.0
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight] |= {"z": weight.clone(), "exp_avg_sq": torch.zeros_like(weight), "steps": 0}
                # Counted per weight: with gradual unfreezing some begin later, with squares of 0.
                self.state[weight]["steps"] += 1
            z = [self.state[p]["z"] for p in weights]
            squares = [self.state[p]["exp_avg_sq"] for p in weights]
            gradients = [p.grad for p in weights]
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
            scale = torch._foreach_div(squares, [1 - beta2 ** self.state[p]["steps"] for p in weights])
            torch._foreach_sqrt_(scale)
            torch._foreach_add_(scale, self.eps)
            updates = torch._foreach_div(gradients, scale)
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
            # y' = (1 - beta1) z' + beta1 x' with x' = (1 - c) x + c z', in terms of y, z and the update.
            torch._foreach_lerp_(weights, z, c)
            torch._foreach_add_(weights, updates, alpha=lr * (beta1 * (1 - c) - 1))
            torch._foreach_sub_(z, updates, alpha=lr)
