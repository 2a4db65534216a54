"""The numbers of a schedule in a run of fewer steps: the same curve, in less time."""

from typing import Any

import pytest

from hf_finetune.training.optim.config import AdamW
from hf_finetune.training.optim.schedule_config import Schedule, ScheduleName, of_shorter_run, resolve
from hf_finetune.training.optim.schedules import factors


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("inverse_sqrt", {"timescale": 20.0}),
        ("warmup_stable_decay", {"num_decay_steps": 40.0}),
        ("step", {"step_size": 30.0}),
        ("multistep", {"milestones": (0.2, 40.0), "gamma": 0.5}),
        ("exponential", {"gamma": 0.97}),
        ("cyclic", {"step_size_up": 20.0, "step_size_down": 30.0}),
        ("cyclic", {"step_size_up": 20.0, "cycle_mode": "exp_range", "gamma": 0.98}),
        ("cosine_annealing", {"t_max": 60.0}),
        ("cosine_annealing_warm_restarts", {"t_0": 30.0}),
    ],
)
def test_a_run_of_half_the_steps_goes_through_the_same_curve(name: ScheduleName, numbers: dict[str, Any]) -> None:
    whole, half = (Schedule(**numbers), of_shorter_run(name, Schedule(**numbers), 0.5))
    curves = [
        factors(resolve(name, one, warmup_steps=0, optimizer=AdamW()), steps)
        for one, steps in ((whole, 100), (half, 50))
    ]
    assert whole != half
    assert curves[1] == pytest.approx(curves[0][::2], abs=1e-6)
    # Its own numbers would be another curve.
    assert factors(resolve(name, whole, warmup_steps=0, optimizer=AdamW()), 50) != pytest.approx(
        curves[0][::2], abs=0.1
    )


def test_no_count_of_a_shorter_run_is_below_one() -> None:
    assert of_shorter_run("step", Schedule(step_size=3.0), 0.1) == Schedule(step_size=1)
    assert of_shorter_run("step", Schedule(step_size=0.5, gamma=0.5), 0.1) == Schedule(step_size=0.5, gamma=0.5)
