"""Configuration of learning-rate schedules. Cheap to import.

`Schedule` holds the numbers of all schedules, `READS` those that each schedule reads, with their defaults. Rates are
relative to the peak rate, so parameter groups with different peaks keep their ratio.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from hf_finetune.errors import InputError
from hf_finetune.training.optim.config import Optimizer
from hf_finetune.utils.config import Count, CountOrZero, Fraction, NonNegative, OpenFraction, Positive, configclass
from hf_finetune.utils.config_errors import Check

ScheduleName: TypeAlias = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "warmup_stable_decay",
    "reduce_lr_on_plateau",
    "step",
    "multistep",
    "exponential",
    "cyclic",
    "one_cycle",
    "cosine_annealing",
    "cosine_annealing_warm_restarts",
]
WARMUP = 0.06
"""Default warm-up, as a share of all steps."""
WITHOUT_WARMUP = frozenset({"constant", "cyclic", "one_cycle"})
"""Schedules without a warm-up. The cycles rise by themselves."""
BY_EVALUATIONS = frozenset({"reduce_lr_on_plateau"})
"""Schedules that depend on the validation metric."""


def _rise(milestones: tuple[float, ...]) -> bool:
    return bool(milestones) and list(milestones) == sorted(milestones)


@configclass
class Schedule:
    """Numbers of the schedule `train.lr_scheduler_type`. A number that this schedule does not read is refused. Steps
    are optimizer steps after the warm-up. Below 1 they are a share of these."""

    min_lr_ratio: Fraction | None = None
    """Lowest rate as a share of the peak. None: 0 for cosine, polynomial, warmup_stable_decay, reduce_lr_on_plateau,
    cosine_annealing and cosine_annealing_warm_restarts. None for cyclic: 0.25, the rate at which a cycle begins and
    ends."""
    num_cycles: Positive | None = None
    """cosine: number of periods. None: 0.5, which is one descent. cosine_with_restarts: number of descents. None: 1."""
    power: Positive | None = None
    """polynomial: exponent. None: 1."""
    timescale: Positive | None = None
    """inverse_sqrt: timescale of the factor 1 / sqrt(step / timescale), in steps. None: the steps of the warm-up, or
    10000 without a warm-up."""
    num_decay_steps: Positive | None = None
    """warmup_stable_decay: steps of the decay at the end. None: 0.2."""
    decay_type: Literal["linear", "cosine", "1-sqrt"] | None = None
    """warmup_stable_decay: form of the decay. None: cosine."""
    step_size: Positive | None = None
    """step: steps between two drops. None: a third of all steps."""
    milestones: Annotated[tuple[Positive, ...], Check(_rise, "rising numbers above 0")] | None = None
    """multistep: steps of the drops. None: 0.5 and 0.75."""
    gamma: Positive | None = None
    """step, multistep: factor of a drop. None: 0.1. exponential: factor of a step. None: the rate ends at a hundredth
    of the peak. cyclic with exp_range: factor of a step. None: 1."""
    factor: OpenFraction | None = None
    """reduce_lr_on_plateau: factor of a drop. None: 0.1."""
    patience: CountOrZero | None = None
    """reduce_lr_on_plateau: evaluations (one an epoch) without improvement before a drop. None: 0."""
    threshold: NonNegative | None = None
    """reduce_lr_on_plateau: least relative improvement that counts. None: 1e-4."""
    cooldown: CountOrZero | None = None
    """reduce_lr_on_plateau: evaluations after a drop that do not count. None: 0."""
    step_size_up: Positive | None = None
    """cyclic: steps of a climb. None: 0.25."""
    step_size_down: Positive | None = None
    """cyclic: steps of a descent. None: as many as of a climb."""
    cycle_mode: Literal["triangular", "triangular2", "exp_range"] | None = None
    """cyclic: equal cycles (triangular), each half as high as the last (triangular2), or shrinking by gamma at every
    step (exp_range)."""
    pct_start: OpenFraction | None = None
    """one_cycle: share of the steps that climb. None: 0.3."""
    div_factor: Positive | None = None
    """one_cycle: ratio of the peak to the first rate. None: 25."""
    final_div_factor: Positive | None = None
    """one_cycle: ratio of the first rate to the last. None: 1e4."""
    anneal_strategy: Literal["cos", "linear"] | None = None
    """one_cycle: form of the rise and the fall. None: cos."""
    t_max: Positive | None = None
    """cosine_annealing: steps from the peak to the lowest rate, after which the rate rises again. None: all steps."""
    t_0: Positive | None = None
    """cosine_annealing_warm_restarts: steps until the first restart. None: 0.25."""
    t_mult: Count | None = None
    """cosine_annealing_warm_restarts: ratio of the length of a period to that of the one before. None: 1."""


# None: computed from the number of steps.
READS: dict[ScheduleName, dict[str, Any]] = {
    "linear": {},
    "cosine": {"num_cycles": 0.5, "min_lr_ratio": 0.0},
    "cosine_with_restarts": {"num_cycles": 1.0},
    "polynomial": {"power": 1.0, "min_lr_ratio": 0.0},
    "constant": {},
    "constant_with_warmup": {},
    "inverse_sqrt": {"timescale": None},
    "warmup_stable_decay": {"num_decay_steps": 0.2, "decay_type": "cosine", "min_lr_ratio": 0.0},
    "reduce_lr_on_plateau": {"factor": 0.1, "patience": 0, "threshold": 1e-4, "cooldown": 0, "min_lr_ratio": 0.0},
    "step": {"step_size": 1 / 3, "gamma": 0.1},
    "multistep": {"milestones": (0.5, 0.75), "gamma": 0.1},
    "exponential": {"gamma": None},
    "cyclic": {
        "step_size_up": 0.25,
        "step_size_down": None,
        "cycle_mode": "triangular",
        "gamma": 1.0,
        "min_lr_ratio": 0.25,
    },
    "one_cycle": {"pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4, "anneal_strategy": "cos"},
    "cosine_annealing": {"t_max": None, "min_lr_ratio": 0.0},
    "cosine_annealing_warm_restarts": {"t_0": 0.25, "t_mult": 1, "min_lr_ratio": 0.0},
}


COUNTS_STEPS = ("timescale", "num_decay_steps", "step_size", "step_size_up", "step_size_down", "t_max", "t_0")
GAMMA_OF_A_STEP = ("exponential", "cyclic")


def in_proportion(steps: float, part: float) -> float:
    """Scale a number of steps to a run with this part of the steps. Below 1 it is a share already and stays."""
    return steps if steps < 1 else max(1, round(steps * part))


def of_shorter_run(name: ScheduleName | None, schedule: Schedule, part: float) -> Schedule:
    """Return the schedule of a run with this part of the steps: the same curve over fewer steps."""
    counts = {field: getattr(schedule, field) for field in COUNTS_STEPS}
    scaled: dict[str, Any] = {f: in_proportion(steps, part) for f, steps in counts.items() if steps is not None}
    if schedule.milestones is not None:
        scaled["milestones"] = tuple(in_proportion(steps, part) for steps in schedule.milestones)
    if schedule.gamma is not None and name in GAMMA_OF_A_STEP:
        # The bounds keep it a positive, finite float.
        scaled["gamma"] = math.exp(min(max(math.log(schedule.gamma) / part, -700.0), 700.0))
    return dataclasses.replace(schedule, **scaled)


@dataclass(frozen=True)
class ResolvedSchedule:
    """A schedule with its defaults filled in, except those that depend on the number of steps."""

    name: ScheduleName
    numbers: Schedule = Schedule()
    warmup_steps: float = 0.0
    """Steps of linear warm-up from 0; below 1, a share of all steps."""


CONSTANT = ResolvedSchedule("constant")


def resolve(
    name: ScheduleName | None, schedule: Schedule = Schedule(), *, warmup_steps: float | None, optimizer: Optimizer
) -> ResolvedSchedule:
    """Fill in the defaults of a schedule, and refuse numbers that it does not read.

    Args:
        name: None: the optimizer's default schedule.
        schedule: fields that are None take the schedule's default.
        warmup_steps: None: `WARMUP`, or 0 where the schedule has no warm-up.

    Raises:
        InputError: the schedule does not read a number, or the number is out of range; names the field.
    """
    name = name or optimizer.default_schedule
    defaults = READS[name]
    numbers = {field: value for field, value in vars(schedule).items() if value is not None}
    for field in numbers:
        if field not in defaults:
            reads = ", ".join(defaults) or "no number"
            raise InputError(f"schedule.{field}: {name} does not read it (it reads {reads}); remove it")
    if "gamma" in numbers and name == "cyclic" and schedule.cycle_mode != "exp_range":
        raise InputError("schedule.gamma: cyclic reads it only with schedule.cycle_mode exp_range; remove it")
    if name in WITHOUT_WARMUP and warmup_steps:
        raise InputError(
            f"train.warmup_steps: expected 0 or None with {name}, which has no warm-up, got {warmup_steps!r}"
        )
    if warmup_steps is None:
        warmup_steps = 0.0 if name in WITHOUT_WARMUP else WARMUP
    resolved = Schedule(**{**defaults, **numbers})
    if name == "cosine_with_restarts" and resolved.num_cycles != int(resolved.num_cycles or 0):
        raise InputError(f"schedule.num_cycles: expected a whole number, got {resolved.num_cycles!r}")
    return ResolvedSchedule(name, resolved, warmup_steps)
