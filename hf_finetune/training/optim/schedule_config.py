"""Which course the learning rate takes, and by which numbers; no more than a recipe needs to import.

`Schedule` holds what any schedule can be told, `READS` which of it each of them reads and what it takes where nothing
is said. All is relative to the peak rate, so that several groups of parameters, each with its own, keep their ratio.
"""

from __future__ import annotations

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
# A constant rate has no warm-up by that name; the cycles climb themselves.
WITHOUT_WARMUP = frozenset({"constant", "cyclic", "one_cycle"})
BY_EVALUATIONS = frozenset({"reduce_lr_on_plateau"})


def _rise(milestones: tuple[float, ...]) -> bool:
    return bool(milestones) and list(milestones) == sorted(milestones)


@configclass
class Schedule:
    """Numbers of the schedule that `train.lr_scheduler_type` names; one that it does not read is refused. Steps are
    optimizer steps after the warm-up; below 1, a share of all of them."""

    min_lr_ratio: Fraction | None = None
    """Lowest rate as a share of the peak. cosine, polynomial, warmup_stable_decay, reduce_lr_on_plateau,
    cosine_annealing, cosine_annealing_warm_restarts: 0. cyclic: 0.25, where a cycle begins and ends."""
    num_cycles: Positive | None = None
    """cosine: waves, 0.5 goes down once. cosine_with_restarts: how often it goes down, 1."""
    power: Positive | None = None
    """polynomial: exponent, 1."""
    timescale: Positive | None = None
    """inverse_sqrt: the rate is 1 / sqrt(step / timescale) after as many steps; the warm-up's, or 10000 without one."""
    num_decay_steps: Positive | None = None
    """warmup_stable_decay: steps of the decay at the end, 0.2."""
    decay_type: Literal["linear", "cosine", "1-sqrt"] | None = None
    """warmup_stable_decay: form of the decay, cosine."""
    step_size: Positive | None = None
    """step: steps between two drops, a third of all."""
    milestones: Annotated[tuple[Positive, ...], Check(_rise, "rising numbers above 0")] | None = None
    """multistep: steps of the drops, 0.5 and 0.75."""
    gamma: Positive | None = None
    """step, multistep: factor of a drop, 0.1. exponential: factor of a step; a hundredth of the peak at the end. cyclic
    with exp_range: factor of a step, 1."""
    factor: OpenFraction | None = None
    """reduce_lr_on_plateau: factor of a drop, 0.1."""
    patience: CountOrZero | None = None
    """reduce_lr_on_plateau: evaluations (one an epoch) without a better validation metric that are waited for, 0."""
    threshold: NonNegative | None = None
    """reduce_lr_on_plateau: what counts as better, relative, 1e-4."""
    cooldown: CountOrZero | None = None
    """reduce_lr_on_plateau: evaluations after a drop that are not counted, 0."""
    step_size_up: Positive | None = None
    """cyclic: steps of a climb, 0.25."""
    step_size_down: Positive | None = None
    """cyclic: steps of a descent, as many as of a climb."""
    cycle_mode: Literal["triangular", "triangular2", "exp_range"] | None = None
    """cyclic: equal cycles (triangular), each half of the one before, or shrinking by gamma a step."""
    pct_start: OpenFraction | None = None
    """one_cycle: share of the steps that climb, 0.3."""
    div_factor: Positive | None = None
    """one_cycle: the peak over the first rate, 25."""
    final_div_factor: Positive | None = None
    """one_cycle: the first rate over the last, 1e4."""
    anneal_strategy: Literal["cos", "linear"] | None = None
    """one_cycle: form of both parts, cos."""
    t_max: Positive | None = None
    """cosine_annealing: steps from the peak to the lowest rate, after which it climbs again; all of them."""
    t_0: Positive | None = None
    """cosine_annealing_warm_restarts: steps until the first restart, 0.25."""
    t_mult: Count | None = None
    """cosine_annealing_warm_restarts: each period is so many times as long as the one before, 1."""


# None: worked out when the number of steps is known.
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
    """What a number of steps is in a run that has this part of them; below 1 it is a share of all, and stays."""
    return steps if steps < 1 else max(1, round(steps * part))


def of_shorter_run(name: ScheduleName | None, given: Schedule, part: float) -> Schedule:
    """The schedule of a run with this part of the steps: the same curve over the shorter time."""
    counts = {field: getattr(given, field) for field in COUNTS_STEPS}
    found: dict[str, Any] = {f: in_proportion(steps, part) for f, steps in counts.items() if steps is not None}
    if given.milestones is not None:
        found["milestones"] = tuple(in_proportion(steps, part) for steps in given.milestones)
    if given.gamma is not None and name in GAMMA_OF_A_STEP:
        # Within the range of floats, and above 0.
        found["gamma"] = math.exp(min(max(math.log(given.gamma) / part, -700.0), 700.0))
    return dataclasses.replace(given, **found)


@dataclass(frozen=True)
class ResolvedSchedule:
    """A schedule with everything settled that does not depend on the number of steps."""

    name: ScheduleName
    numbers: Schedule
    """What it reads, defaults filled in."""
    warmup_steps: float
    """Steps of linear warm-up from 0; below 1, the share of all steps."""


def resolve(
    name: ScheduleName | None, given: Schedule = Schedule(), *, warmup_steps: float | None, optimizer: Optimizer
) -> ResolvedSchedule:
    """Settle what the schedule reads, and refuse the rest.

    Args:
        name: None: linear; for `ScheduleFree`, whose average takes the place of a falling rate, constant_with_warmup.
        given: None fields take the schedule's own default.
        warmup_steps: None: `WARMUP`, or 0 where the schedule has no warm-up.

    Raises:
        InputError: for a number that this schedule does not read, or one out of its range, by the field's name.
    """
    name = name or optimizer.default_schedule
    reads = READS[name]
    said = {field: value for field, value in vars(given).items() if value is not None}
    for field in said:
        if field not in reads:
            of_it = ", ".join(reads) or "nothing"
            raise InputError(f"schedule.{field}: {name} does not read it, but {of_it}; remove it")
    if "gamma" in said and name == "cyclic" and given.cycle_mode != "exp_range":
        raise InputError("schedule.gamma: cyclic reads it with schedule.cycle_mode exp_range alone; remove it")
    if name in WITHOUT_WARMUP and warmup_steps:
        raise InputError(
            f"train.warmup_steps: expected 0 or None with {name}, which has no warm-up, got {warmup_steps!r}"
        )
    if warmup_steps is None:
        warmup_steps = 0.0 if name in WITHOUT_WARMUP else WARMUP
    numbers = dataclasses.replace(Schedule(), **{**reads, **said})
    if name == "cosine_with_restarts" and numbers.num_cycles != int(numbers.num_cycles or 0):
        raise InputError(f"schedule.num_cycles: expected a whole number, got {numbers.num_cycles!r}")
    return ResolvedSchedule(name, numbers, warmup_steps)
