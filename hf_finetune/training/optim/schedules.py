"""Learning-rate schedules, by torch and transformers.

A schedule is run once at a peak rate of 1, which gives a table of factors. Each parameter group's rate is its own peak
times the table's entry. So the rates do not depend on the number of groups or processes, nor on a restart. Only
ReduceLROnPlateau depends on the run; checkpoints hold its state.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import lr_scheduler
from transformers import optimization

from hf_finetune.training.optim.schedule_config import ResolvedSchedule, ScheduleName


def warmup_of(value: float, total: int) -> int:
    """Return the steps of a warm-up: `value`, or below 1 that share of `total`, rounded up as in TrainingArguments."""
    return int(value) if value >= 1 else math.ceil(total * value)


def steps_of(value: float, total: int) -> int:
    """Return `value` steps, or below 1 about that share of `total`, at least one."""
    return int(value) if value >= 1 else max(1, round(total * value))


def factors(schedule: ResolvedSchedule, steps: int) -> list[float]:
    """Return the rate of each optimizer step, and of the step after the last, as factors of the peak.

    Args:
        schedule: reduce_lr_on_plateau gives the factors before any reduction.
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
    """Return `count` factors of one of torch's schedules, which starts at the peak."""
    if schedule.name == "reduce_lr_on_plateau":
        return [1.0] * count
    # The last factor belongs to a step that is not taken.
    optimizer, steps = _peak_of_one(), max(1, count - 1)
    curve = AFTER_WARMUP[schedule.name](optimizer, schedule.numbers, steps)
    rates = [float(optimizer.param_groups[0]["lr"])]
    # OneCycleLR has no rate after its last step: repeat the last one.
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
        # A schedule does not change Adam's betas.
        cycle_momentum=False,
    )


def _one_cycle(optimizer: torch.optim.Optimizer, numbers: Any, steps: int) -> lr_scheduler.LRScheduler:
    climb = numbers.pct_start
    while climb * steps == 1:
        # torch divides by the length of the climb, 0 where it ends at the first step.
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
    # It divides by the number of steps after the warm-up.
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
"""transformers' schedules, with their own warm-up: `(optimizer, numbers, warm-up steps, all steps) -> scheduler`."""
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
"""torch's schedules, which start at the peak: `(optimizer, numbers, steps after the warm-up) -> scheduler`."""


class RateSchedule(lr_scheduler.LambdaLR):
    """Multiplies each group's peak rate by the step's factor. `step()` follows each optimizer step."""

    def judge(self, metric: float) -> None:
        """Take in the metric of an evaluation. Most schedules do not depend on it."""


def scheduler(
    schedule: ResolvedSchedule,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    greater_is_better: bool,
    elapsed: Callable[[], float] | None = None,
) -> RateSchedule:
    """Build the schedule of an optimizer whose groups have their peak rates.

    Args:
        steps: optimizer steps of the whole run.
        greater_is_better: whether a greater validation metric is better, for reduce_lr_on_plateau.
        elapsed: share of the time of the run that has passed. The schedule is then at least so far. None: the steps
            alone count.
    """
    table = factors(schedule, steps)

    def factor(step: int) -> float:
        reached = step if elapsed is None else max(step, round(elapsed() * steps))
        return table[min(reached, steps)]

    if schedule.name == "reduce_lr_on_plateau":
        return WarmPlateau(optimizer, factor, schedule, greater_is_better=greater_is_better)
    return RateSchedule(optimizer, factor)


class WarmPlateau(RateSchedule):
    """torch's ReduceLROnPlateau after a warm-up, with one factor for all groups.

    Args:
        warmup: factor of a step by the warm-up alone.
        schedule: numbers of the schedule.
        greater_is_better: whether a greater metric is better.
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
        super().__init__(optimizer, warmup)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the rates of the groups at this step."""
        factor = self._warmup(self.last_epoch) * self._share
        return [peak * factor for peak in self.base_lrs]

    def judge(self, metric: float) -> None:
        """Reduce the rates where the metric has not improved for `patience` evaluations."""
        self._plateau.step(metric)
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate
        self._last_lr = self.get_lr()

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint holds."""
        base = {k: v for k, v in super().state_dict().items() if not k.startswith("_")}
        return {**base, "last_lr": self._last_lr, "plateau": self._plateau.state_dict(), "share": self._share}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a checkpoint's state."""
        base = dict(state_dict)
        self._plateau.load_state_dict(base.pop("plateau"))
        self._peak.param_groups[0]["lr"] = base.pop("share")
        self._last_lr = base.pop("last_lr")
        super().load_state_dict(base)

    @property
    def _share(self) -> float:
        return self._peak.param_groups[0]["lr"]
