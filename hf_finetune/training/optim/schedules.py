"""The learning rate of every optimizer step, by torch's and transformers' own schedules.

A schedule is run once at a peak rate of 1; the factors that come out are a table. Each group of parameters then has its
own peak times the table's entry: the same whatever the number of groups and of processes, and, since nothing is carried
from step to step, the same after a run was resumed. ReduceLROnPlateau alone depends on the run; its state is saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import lr_scheduler
from transformers import optimization

from hf_finetune.training.optim.schedule_config import ResolvedSchedule, ScheduleName


def warmup_of(value: float, total: int) -> int:
    """`value` steps, or below 1 that share of `total`, rounded up: as TrainingArguments' warmup_steps means it."""
    return int(value) if value >= 1 else math.ceil(total * value)


def steps_of(value: float, total: int) -> int:
    """`value` steps, or below 1 about that share of `total`, at least one."""
    return int(value) if value >= 1 else max(1, round(total * value))


def factors(schedule: ResolvedSchedule, steps: int) -> list[float]:
    """Shares of the peak rate, shape (steps + 1,): for each optimizer step, and what would come next.

    Args:
        schedule: reduce_lr_on_plateau as it is while nothing has been reduced.
        steps: optimizer steps of the whole run, at least 1.
    """
    warmup = warmup_of(schedule.warmup_steps, steps)
    if (build := WITH_WARMUP.get(schedule.name)) is not None:
        factor = build(_peak_of_one(), schedule.numbers, warmup, steps).lr_lambdas[0]
        return [float(factor(step)) for step in range(steps + 1)]
    climb = [step / warmup for step in range(min(warmup, steps + 1))]
    return [*climb, *_after_warmup(schedule, steps + 1 - len(climb))]


def _peak_of_one() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def _after_warmup(schedule: ResolvedSchedule, count: int) -> list[float]:
    """`count` factors by torch's schedules, from the peak on."""
    if schedule.name == "reduce_lr_on_plateau":
        return [1.0] * count
    # The last factor is that of a step which is not taken.
    optimizer, steps = _peak_of_one(), max(1, count - 1)
    curve = AFTER_WARMUP[schedule.name](optimizer, schedule.numbers, steps)
    rates = [float(optimizer.param_groups[0]["lr"])]
    # Beyond its last step OneCycleLR has no rate: that one stays.
    for _ in range(min(count, steps) - 1 if schedule.name == "one_cycle" else count - 1):
        optimizer.step()
        curve.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates + [rates[-1]] * (count - len(rates))


def _cyclic(optimizer: torch.optim.Optimizer, numbers: Any, steps: int) -> lr_scheduler.LRScheduler:
    down = numbers.step_size_down
    return lr_scheduler.CyclicLR(
        optimizer,
        base_lr=numbers.min_lr_ratio,
        max_lr=1.0,
        step_size_up=steps_of(numbers.step_size_up, steps),
        step_size_down=None if down is None else steps_of(down, steps),
        mode=numbers.cycle_mode,
        gamma=numbers.gamma,
        # Momentum stays: Adam's betas are no part of a schedule.
        cycle_momentum=False,
    )


def _one_cycle(optimizer: torch.optim.Optimizer, numbers: Any, steps: int) -> lr_scheduler.LRScheduler:
    climb = numbers.pct_start
    while climb * steps == 1:
        # A climb that ends at the first step: torch would divide by its length.
        climb = math.nextafter(climb, 1.0)
    return lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=1.0,
        total_steps=steps,
        pct_start=climb,
        div_factor=numbers.div_factor,
        final_div_factor=numbers.final_div_factor,
        anneal_strategy=numbers.anneal_strategy,
        cycle_momentum=False,
    )


WITH_WARMUP: dict[ScheduleName, Callable[[torch.optim.Optimizer, Any, int, int], lr_scheduler.LambdaLR]] = {
    "linear": lambda o, n, warmup, steps: optimization.get_linear_schedule_with_warmup(o, warmup, steps),
    "cosine": lambda o, n, warmup, steps: optimization.get_cosine_with_min_lr_schedule_with_warmup(
        o, warmup, steps, num_cycles=n.num_cycles, min_lr_rate=n.min_lr_ratio
    ),
    "cosine_with_restarts": lambda o, n, warmup, steps: optimization.get_cosine_with_hard_restarts_schedule_with_warmup(
        o, warmup, steps, int(n.num_cycles)
    ),
    # Past the warm-up it divides by what is left.
    "polynomial": lambda o, n, warmup, steps: optimization.get_polynomial_decay_schedule_with_warmup(
        o, min(warmup, steps - 1), steps, lr_end=n.min_lr_ratio, power=n.power
    ),
    "constant": lambda o, n, warmup, steps: optimization.get_constant_schedule(o),
    "constant_with_warmup": lambda o, n, warmup, steps: optimization.get_constant_schedule_with_warmup(o, warmup),
    "inverse_sqrt": lambda o, n, warmup, steps: optimization.get_inverse_sqrt_schedule(
        o, warmup, None if n.timescale is None else steps_of(n.timescale, steps)
    ),
    "warmup_stable_decay": lambda o, n, warmup, steps: optimization.get_wsd_schedule(
        o,
        warmup,
        min(steps_of(n.num_decay_steps, steps - warmup), steps - warmup),
        num_training_steps=steps,
        decay_type=n.decay_type,
        min_lr_ratio=n.min_lr_ratio,
    ),
}
"""Schedules of transformers, which bring their warm-up: of an optimizer, numbers, warm-up steps and all steps."""
AFTER_WARMUP: dict[ScheduleName, Callable[[torch.optim.Optimizer, Any, int], lr_scheduler.LRScheduler]] = {
    "step": lambda o, n, steps: lr_scheduler.StepLR(o, steps_of(n.step_size, steps), n.gamma),
    "multistep": lambda o, n, steps: lr_scheduler.MultiStepLR(o, [steps_of(m, steps) for m in n.milestones], n.gamma),
    "exponential": lambda o, n, steps: lr_scheduler.ExponentialLR(o, n.gamma or 0.01 ** (1 / steps)),
    "cyclic": _cyclic,
    "one_cycle": _one_cycle,
    "cosine_annealing": lambda o, n, steps: lr_scheduler.CosineAnnealingLR(
        o, steps if n.t_max is None else steps_of(n.t_max, steps), n.min_lr_ratio
    ),
    "cosine_annealing_warm_restarts": lambda o, n, steps: lr_scheduler.CosineAnnealingWarmRestarts(
        o, steps_of(n.t_0, steps), n.t_mult, n.min_lr_ratio
    ),
}
"""Schedules of torch, which begin at the peak: of an optimizer, numbers and the steps after the warm-up."""


def scheduler(
    schedule: ResolvedSchedule, optimizer: torch.optim.Optimizer, steps: int, *, greater_is_better: bool
) -> lr_scheduler.LRScheduler:
    """The schedule of `optimizer`, whose groups are at their peak rates.

    Args:
        steps: optimizer steps of the whole run.
        greater_is_better: of the validation metric, for reduce_lr_on_plateau.
    """
    table = factors(schedule, steps)

    def factor(step: int) -> float:
        return table[min(step, steps)]

    if schedule.name == "reduce_lr_on_plateau":
        return WarmPlateau(optimizer, factor, schedule, greater_is_better=greater_is_better)
    return lr_scheduler.LambdaLR(optimizer, factor)


class WarmPlateau(lr_scheduler.LRScheduler):
    """torch's ReduceLROnPlateau with a warm-up before it, and one factor for all groups.

    `step()` follows each optimizer step, `judge(metric)` each evaluation.

    Args:
        warmup: the factor of a step by the warm-up alone.
        schedule: numbers of the schedule.
        greater_is_better: of the metric.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup: Callable[[int], float],
        schedule: ResolvedSchedule,
        *,
        greater_is_better: bool,
    ) -> None:
        self._warmup, self._peak = warmup, _peak_of_one()
        numbers: Any = schedule.numbers
        self._plateau = lr_scheduler.ReduceLROnPlateau(
            self._peak,
            mode="max" if greater_is_better else "min",
            factor=numbers.factor,
            patience=numbers.patience,
            threshold=numbers.threshold,
            cooldown=numbers.cooldown,
            min_lr=numbers.min_lr_ratio,
        )
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Rates of the groups at this step."""
        share = self._warmup(self.last_epoch) * self._peak.param_groups[0]["lr"]
        return [peak * share for peak in self.base_lrs]

    def judge(self, metric: float) -> None:
        """Reduce the rates, from now on, when the metric has not become better for long enough."""
        self._plateau.step(metric)
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate
        self._last_lr = self.get_lr()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        own = {k: v for k, v in super().state_dict().items() if not k.startswith("_")}
        return {**own, "last_lr": self._last_lr, "plateau": self._plateau.state_dict(), "share": self._share}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        own = dict(state_dict)
        self._plateau.load_state_dict(own.pop("plateau"))
        self._peak.param_groups[0]["lr"] = own.pop("share")
        self._last_lr = own.pop("last_lr")
        super().load_state_dict(own)

    @property
    def _share(self) -> float:
        return self._peak.param_groups[0]["lr"]
