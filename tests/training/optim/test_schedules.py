"""Schedules step by step against torch's and transformers' own, by hand, and across resume."""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from helpers.small_runs import furthest, small_recipe, small_trainer, trainer_with, weights
from torch.optim import lr_scheduler
from transformers import TrainerCallback, get_scheduler

from hf_finetune import Launch, Model, Recipe, TextData, Train
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.run_job import RunJob
from hf_finetune.config.rules import check
from hf_finetune.errors import InputError
from hf_finetune.pipeline import run as pipeline
from hf_finetune.training.checkpoints import CheckpointKeeper, newest_whole
from hf_finetune.training.optim.config import AdamW, ScheduleFree
from hf_finetune.training.optim.schedule_config import (
    READS,
    ResolvedSchedule,
    Schedule,
    ScheduleName,
    resolve,
)
from hf_finetune.training.optim.schedules import WarmPlateau, factors, scheduler, steps_of, warmup_of
from hf_finetune.training.optim.update_rule import UpdateRule
from hf_finetune.training.trainer import ClassifierTrainer
from hf_finetune.utils.plain import merge, to_plain

STEPS, WARMUP, RATE = 40, 4, 3e-4


def made(name: ScheduleName, warmup: float | None = WARMUP, **numbers: Any) -> ResolvedSchedule:
    return resolve(name, Schedule(**numbers), warmup_steps=warmup, optimizer=AdamW())


def two_groups() -> torch.optim.Optimizer:
    """The second group at a tenth of the first one's rate."""
    one, other = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    return torch.optim.SGD([{"params": [one], "lr": RATE}, {"params": [other], "lr": RATE / 10}], lr=RATE)


def rates(optimizer: torch.optim.Optimizer, schedule: Any, steps: int = STEPS) -> list[list[float]]:
    """The groups' rates at each optimizer step."""
    result = []
    for _ in range(steps):
        result.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return result


def test_a_schedule_ends_with_the_time_where_not_all_steps_fit() -> None:
    """Of 40 steps by the clock of the run, whatever their number: its half is at half of the time."""
    share, optimizer = 0.0, two_groups()
    timed = scheduler(made("linear", 0), optimizer, STEPS, greater_is_better=True, elapsed=lambda: share)
    found = []
    for share in (0.0, 0.25, 0.5, 1.0, 1.2):  # noqa: B007 - read by `elapsed`
        optimizer.step()
        timed.step()
        found.append(optimizer.param_groups[0]["lr"] / RATE)
    # The first of 40 steps is further than no time.
    assert found == pytest.approx([1 - 1 / 40, 0.75, 0.5, 0, 0])


def ours(resolved: ResolvedSchedule) -> list[list[float]]:
    optimizer = two_groups()
    return rates(optimizer, scheduler(resolved, optimizer, STEPS, greater_is_better=True))


def theirs(make: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    return [first for first, *_ in rates(optimizer, make(optimizer))]


def after_warmup(make: Any) -> Any:
    """torch's schedule behind a linear warm-up, as torch composes them."""

    def compose(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        climb = lr_scheduler.LambdaLR(optimizer, lambda step: step / WARMUP)
        return lr_scheduler.SequentialLR(optimizer, [climb, make(optimizer)], [WARMUP])

    return compose


LEFT = STEPS - WARMUP
TRANSFORMERS = [
    (made("linear"), "linear", {}),
    (made("linear", 0), "linear", {}),
    (made("cosine"), "cosine", {}),
    (made("cosine", num_cycles=1.5), "cosine", {"num_cycles": 1.5}),
    (made("cosine", min_lr_ratio=0.1), "cosine_with_min_lr", {"min_lr_rate": 0.1}),
    (made("cosine_with_restarts", num_cycles=3), "cosine_with_restarts", {"num_cycles": 3}),
    (made("polynomial", power=2.0, min_lr_ratio=0.1), "polynomial", {"power": 2.0, "lr_end": RATE / 10}),
    (made("constant", None), "constant", {}),
    (made("constant_with_warmup"), "constant_with_warmup", {}),
    (made("inverse_sqrt"), "inverse_sqrt", {}),
    (made("inverse_sqrt", timescale=10), "inverse_sqrt", {"timescale": 10}),
    (
        made("warmup_stable_decay", num_decay_steps=8, decay_type="1-sqrt"),
        "warmup_stable_decay",
        {"num_decay_steps": 8, "decay_type": "1-sqrt"},
    ),
]


@pytest.mark.parametrize(("resolved", "name", "numbers"), TRANSFORMERS, ids=lambda x: x if isinstance(x, str) else "")
def test_as_transformers(resolved: ResolvedSchedule, name: str, numbers: dict[str, Any]) -> None:
    warmup = warmup_of(resolved.warmup_steps, STEPS)
    expected = theirs(lambda o: get_scheduler(name, o, warmup, STEPS, numbers))
    result = ours(resolved)
    assert [first for first, _ in result] == pytest.approx(expected, rel=1e-12, abs=1e-18)
    # The default is to the bit what it was when the Trainer made it.
    assert numbers or [first for first, _ in result] == expected
    assert [second for _, second in result] == pytest.approx([rate / 10 for rate in expected], rel=1e-12, abs=1e-18)


def cyclic(optimizer: torch.optim.Optimizer, mode: str = "triangular", gamma: float = 1.0) -> lr_scheduler.CyclicLR:
    return lr_scheduler.CyclicLR(optimizer, RATE / 4, RATE, 5, 10, mode=mode, gamma=gamma, cycle_momentum=False)


TORCH = {
    "step": (made("step", step_size=10, gamma=0.5), after_warmup(lambda o: lr_scheduler.StepLR(o, 10, 0.5))),
    "multistep": (
        made("multistep", milestones=(0.25, 18.0)),
        after_warmup(lambda o: lr_scheduler.MultiStepLR(o, [9, 18], 0.1)),
    ),
    "exponential": (made("exponential", gamma=0.9), after_warmup(lambda o: lr_scheduler.ExponentialLR(o, 0.9))),
    "cosine_annealing": (made("cosine_annealing"), after_warmup(lambda o: lr_scheduler.CosineAnnealingLR(o, LEFT))),
    "cosine_annealing that climbs again": (
        made("cosine_annealing", t_max=10, min_lr_ratio=0.1),
        after_warmup(lambda o: lr_scheduler.CosineAnnealingLR(o, 10, RATE / 10)),
    ),
    "cosine_annealing_warm_restarts": (
        made("cosine_annealing_warm_restarts", 0, t_0=5, t_mult=2, min_lr_ratio=0.1),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 2, RATE / 10),
    ),
    "cyclic": (made("cyclic", None, step_size_up=5, step_size_down=10), cyclic),
    "cyclic, halved": (
        made("cyclic", None, step_size_up=5, step_size_down=10, cycle_mode="triangular2"),
        partial(cyclic, mode="triangular2"),
    ),
    "cyclic, shrinking": (
        made("cyclic", None, step_size_up=5, step_size_down=10, cycle_mode="exp_range", gamma=0.95),
        partial(cyclic, mode="exp_range", gamma=0.95),
    ),
    "one_cycle": (
        made("one_cycle", None),
        lambda o: lr_scheduler.OneCycleLR(o, RATE, total_steps=STEPS, cycle_momentum=False),
    ),
    "one_cycle, linear": (
        made("one_cycle", None, pct_start=0.5, div_factor=10, final_div_factor=100, anneal_strategy="linear"),
        lambda o: lr_scheduler.OneCycleLR(
            o, RATE, STEPS, None, None, 0.5, "linear", False, div_factor=10, final_div_factor=100
        ),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_as_torch(name: str) -> None:
    resolved, make = TORCH[name]
    expected, result = theirs(make), ours(resolved)
    assert [first for first, _ in result] == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert [second for _, second in result] == pytest.approx([rate / 10 for rate in expected], rel=1e-9, abs=1e-15)
    assert len(set(expected)) > 2


def test_values_by_hand() -> None:
    """10 steps, 2 of them warm-up: 8 that fall, in two drops after 4 steps each; the triangle has its peak at step
    2."""
    assert factors(made("linear", 2), 10) == [0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]
    assert factors(made("step", 2, step_size=4, gamma=0.5), 10) == [0, 0.5, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]
    assert factors(made("multistep", 0), 8) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01])
    assert factors(made("exponential", 0), 2) == pytest.approx([1, 0.1, 0.01])
    triangle = made("cyclic", None, step_size_up=2, min_lr_ratio=0.5)
    assert factors(triangle, 6) == pytest.approx([0.5, 0.75, 1, 0.75, 0.5, 0.75, 1])
    assert factors(made("cosine", 0), 4) == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]
    )
    assert factors(made("inverse_sqrt", 0, timescale=4), 16)[12] == 0.5
    assert factors(made("warmup_stable_decay", 0, num_decay_steps=2, decay_type="linear"), 4) == [1, 1, 1, 0.5, 0]


@pytest.mark.parametrize("name", get_args(ScheduleName))
def test_every_schedule_has_a_rate_for_every_step(name: ScheduleName) -> None:
    """Down to one step; never below 0 nor above the peak, which is reached in a run of some length."""
    for steps in (1, 2, 3, 7, 60):
        result = factors(made(name, None), steps)
        assert len(result) == steps + 1 and all(0 <= factor <= 1 + 1e-12 for factor in result)
    assert max(result) == pytest.approx(1.0)
    assert set(READS) == set(get_args(ScheduleName))


def test_share_or_steps() -> None:
    assert (steps_of(0.25, 40), steps_of(7, 40), steps_of(0.001, 40)) == (10, 7, 1)
    assert (warmup_of(0.06, 40), warmup_of(3, 40), warmup_of(0, 40)) == (3, 3, 0)


def test_plateau_is_torchs_behind_a_warm_up() -> None:
    """Evaluated every 5 steps; accuracy .5, .6, .6, .6, .7: with a patience of 1 the fourth evaluation halves the
    rate."""
    resolved = made("reduce_lr_on_plateau", factor=0.5, patience=1)
    optimizer, other = two_groups(), torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    mine = scheduler(resolved, optimizer, STEPS, greater_is_better=True)
    assert isinstance(mine, WarmPlateau)
    judged = lr_scheduler.ReduceLROnPlateau(other, mode="max", factor=0.5, patience=1)
    result: list[float] = []
    for step in range(25):
        rate = other.param_groups[0]["lr"] * min(1, step / WARMUP)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate / 10], rel=1e-12)
        result.append(rate)
        optimizer.step()
        mine.step()
        if step % 5 == 4:
            accuracy = (0.5, 0.6, 0.6, 0.6, 0.7)[step // 5]
            mine.judge(accuracy)
            judged.step(accuracy)
    assert result[19] == RATE and result[20] == RATE / 2


@pytest.mark.parametrize("name", get_args(ScheduleName))
def test_state_goes_on_to_the_bit(name: ScheduleName, tmp_path: Path) -> None:
    def fresh() -> tuple[torch.optim.Optimizer, Any]:
        optimizer = two_groups()
        return optimizer, scheduler(made(name, None), optimizer, STEPS, greater_is_better=False)

    def go(optimizer: torch.optim.Optimizer, schedule: Any, steps: range) -> list[list[float]]:
        result = []
        for step in steps:
            result += rates(optimizer, schedule, 1)
            if isinstance(schedule, WarmPlateau) and step % 4 == 3:
                schedule.judge(1.0)
        return result

    straight = go(*fresh(), range(20))
    first = fresh()
    begun = go(*first, range(11))
    torch.save([part.state_dict() for part in first], tmp_path / "state.pt")
    second = fresh()
    for part, state in zip(second, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert begun + go(*second, range(11, 20)) == straight
    assert len({first for first, _ in straight}) > (0 if name == "constant" else 2)


class KillAt(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 13:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "one_cycle"])
def test_a_killed_run_has_the_same_rates(tmp_path: Path, name: ScheduleName) -> None:
    """Four epochs of 5 steps; the accuracy never rises, so the rate falls after the second, third and fourth."""

    def trainer(folder: str) -> ClassifierTrainer:
        resolved = made(name, 2 if name != "one_cycle" else None)
        result = small_trainer(
            tmp_path / folder,
            "bert",
            trainer=trainer_with(update=UpdateRule(schedule=resolved)),
            num_train_epochs=4.0,
        )
        result.metrics = lambda labels, logits: {"accuracy": 0.5}
        result.add_callback(CheckpointKeeper([]))
        return result

    def logged(result: ClassifierTrainer) -> list[float]:
        return [line["learning_rate"] for line in result.state.log_history if "loss" in line]

    straight = trainer("straight")
    straight.train()
    killed = trainer("killed")
    killed.add_callback(KillAt())
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    again = trainer("killed")
    again.train(resume_from_checkpoint=str(newest_whole(tmp_path / "killed" / "checkpoints")))
    assert logged(again) == logged(straight) and len(logged(straight)) == 20
    assert furthest(weights(again), weights(straight)) == 0.0
    if name == "reduce_lr_on_plateau":
        assert logged(straight)[:3] == [0, 0.0005, 0.001]
        assert logged(straight)[9:11] == pytest.approx([1e-3, 1e-4]) and logged(straight)[-1] == pytest.approx(1e-5)


# In a recipe

RECIPE = Recipe(name="a", data=TextData(path="x"), model=Model("m"))


def test_flags_and_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "train: {lr_scheduler_type: multistep}\nschedule: {milestones: [0.3, 0.6], gamma: 0.5}\n"
    )
    result = parse_run(RunJob(RECIPE), ["--config", str(tmp_path / "a.yaml")], "test").recipe
    flags = ["--train.lr-scheduler-type", "multistep", "--schedule.milestones", "0.3", "0.6", "--schedule.gamma", "0.5"]
    assert parse_run(RunJob(RECIPE), flags, "test").recipe == result
    assert result.schedule == Schedule(milestones=(0.3, 0.6), gamma=0.5)
    assert merge(RECIPE, to_plain(result)) == result
    check(result)


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        ("linear", {"gamma": 0.1}, "schedule.gamma: linear does not read it"),
        ("step", {"milestones": (1.0,)}, "schedule.milestones: step .*step_size, gamma"),
        ("cyclic", {"gamma": 0.9}, "schedule.gamma: cyclic .*exp_range"),
        ("cosine_with_restarts", {"num_cycles": 1.5}, "schedule.num_cycles: expected a whole number, got 1.5"),
    ],
)
def test_what_a_schedule_does_not_read_is_refused(name: ScheduleName, numbers: dict[str, Any], message: str) -> None:
    recipe = dataclasses.replace(RECIPE, train=Train(lr_scheduler_type=name), schedule=Schedule(**numbers))
    with pytest.raises(InputError, match=message):
        check(recipe)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs the recipe of seven steps under a schedule; gives the logged rates and the trained weights."""
    folder = tmp_path_factory.mktemp("runs")
    small = small_recipe(folder)
    kept: dict[ScheduleName, tuple[list[float], dict[str, torch.Tensor]]] = {}

    def under(name: ScheduleName) -> tuple[list[float], dict[str, torch.Tensor]]:
        if name not in kept:
            train = dataclasses.replace(small.train, lr_scheduler_type=name, learning_rate=RATE, logging_steps=1)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pipeline, "finalize", lambda trained: trained.trainer)
                trainer = pipeline.run(dataclasses.replace(small, train=train), Launch(str(folder / name)))
            logged = [line["learning_rate"] for line in trainer.state.log_history if "loss" in line]
            kept[name] = logged, weights(trainer)
        return kept[name]

    return under


@pytest.mark.parametrize("name", get_args(ScheduleName))
def test_a_run_learns_at_the_rates_of_its_schedule(name: ScheduleName, run: Any) -> None:
    logged, result = run(name)
    assert logged == pytest.approx([RATE * factor for factor in factors(made(name, None), 7)[:7]], abs=1e-12)
    # Another course of the rate, other weights.
    assert (furthest(result, run("constant")[1]) > 1e-5) == (name != "constant")


def test_warm_up() -> None:
    for name in ("constant", "cyclic", "one_cycle"):
        assert made(name, None).warmup_steps == 0
        with pytest.raises(InputError, match=f"train.warmup_steps: expected 0 or None with {name}"):
            check(dataclasses.replace(RECIPE, train=Train(lr_scheduler_type=name, warmup_steps=5)))
    assert made("step", None).warmup_steps == 0.06
    assert resolve(None, warmup_steps=None, optimizer=AdamW()).name == "linear"
    assert resolve(None, warmup_steps=None, optimizer=ScheduleFree()).name == "constant_with_warmup"


@pytest.mark.parametrize(("share", "steps"), [(0.5, 2), (0.1, 10), (0.25, 4)])
def test_one_cycle_whose_climb_ends_at_its_first_step(share: float, steps: int) -> None:
    """torch divides by the steps of the climb."""
    result = factors(made("one_cycle", None, pct_start=share), steps)
    assert len(result) == steps + 1
    assert result[0] == pytest.approx(1 / 25) and result[steps - 1] == pytest.approx(1 / 25 / 1e4)
