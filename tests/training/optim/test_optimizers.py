"""Every optimizer: one step by hand, a state that goes on to the bit, a loss that falls, a whole run that resumes."""

import dataclasses
import importlib.util
import json
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from helpers.ranks import run_in_two_processes
from helpers.small_runs import small_recipe, small_trainer, stop_after, trainer_with
from safetensors.torch import load_file
from torch import nn

from hf_finetune import Averaging, Launch, Model, Optim, Recipe, TextData, Train
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.run_job import RunJob
from hf_finetune.config.rules import check
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.pipeline import run
from hf_finetune.training.optim.config import (
    SGD,
    Adafactor,
    AdamW,
    AdamW8bit,
    Lion,
    Muon,
    Optimizer,
    ScheduleFree,
)
from hf_finetune.training.optim.schedule_config import resolve
from hf_finetune.training.optim.schedule_free_adamw import ScheduleFreeAdamW
from hf_finetune.training.optim.update_rule import UpdateRule
from hf_finetune.training.trainer import ClassifierTrainer
from hf_finetune.utils.plain import merge, to_plain

pytestmark = pytest.mark.usefixtures("gate_here")

BITS = pytest.param(
    AdamW8bit(), marks=pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="no bitsandbytes")
)
EACH: list[Any] = [BITS if kind is AdamW8bit else kind() for kind in get_args(Optimizer)]


def name_of(choice: Optimizer) -> str:
    return type(choice).__name__


def groups_of(*parameters: nn.Parameter, decay: float = 0.0, lr: float = 0.1) -> list[dict[str, Any]]:
    """Matrices and vectors apart, as `rate_groups` gives them."""
    kinds = {matrix: [p for p in parameters if (p.ndim == 2) == matrix] for matrix in (True, False)}
    return [
        {"params": actual, "lr": lr, "weight_decay": decay, "part": "all", "matrix": matrix}
        for matrix, actual in kinds.items()
        if actual
    ]


def show_average(optimizer: torch.optim.Optimizer) -> None:
    if isinstance(optimizer, ScheduleFreeAdamW):
        optimizer.eval()


def take_gradients(optimizer: torch.optim.Optimizer) -> None:
    if isinstance(optimizer, ScheduleFreeAdamW):
        optimizer.train()


# w = (1, -2), g = (0.5, -0.25), rate 0.1, weight decay 0.1. The sign of g is (1, -1), the root mean square of w
# sqrt(2.5); SGD's decay is part of the gradient.
BY_HAND = [
    (AdamW(), (0.99 - 0.1, -1.98 + 0.1)),
    (SGD(), (1 - 0.1 * (0.5 + 0.1), -2 - 0.1 * (-0.25 - 0.2))),
    (SGD(nesterov=True), (1 - 0.1 * 1.9 * 0.6, -2 + 0.1 * 1.9 * 0.45)),
    (Adafactor(), (0.99 - 0.1 * math.sqrt(2.5), -1.98 + 0.1 * math.sqrt(2.5))),
    (Lion(), (0.99 - 0.1, -1.98 + 0.1)),
    (Muon(), (0.99 - 0.1, -1.98 + 0.1)),
    (ScheduleFree(), (0.99 - 0.1, -1.98 + 0.1)),
]


@pytest.mark.parametrize(
    ("choice", "expected"), BY_HAND, ids=lambda x: name_of(x) if dataclasses.is_dataclass(x) else ""
)
def test_one_step_by_hand(choice: Optimizer, expected: tuple[float, float]) -> None:
    w = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = choice.build(groups_of(w, decay=0.1), lr=0.1)
    w.grad = torch.tensor([0.5, -0.25])
    optimizer.step()
    show_average(optimizer)
    assert w.tolist() == pytest.approx(expected, rel=1e-5)


def test_lion_by_hand_over_two_steps() -> None:
    """Step 2: 0.9 m + 0.1 g = 0.9 * 0.01 - 0.1 * 0.05 = 0.004 > 0, though the gradient is below 0."""
    w = nn.Parameter(torch.zeros(1))
    optimizer = Lion().build(groups_of(w), lr=0.1)
    for gradient in (1.0, -0.05):
        w.grad = torch.tensor([gradient])
        optimizer.step()
    assert w.item() == pytest.approx(-0.2)
    assert optimizer.state[w]["momentum"].item() == pytest.approx(0.99 * 0.01 - 0.01 * 0.05)


def test_muon_by_hand_on_a_matrix() -> None:
    """The update of a multiple of the identity is one: Newton-Schulz's polynomial applied 5 times to 1 / sqrt(2). Its
    size is AdamW's: 0.2 sqrt(2) of the rate. bf16 inside: three digits."""
    w = nn.Parameter(torch.zeros(2, 2))
    optimizer = Muon().build(groups_of(w), lr=0.1)
    w.grad = 3 * torch.eye(2)
    optimizer.step()
    x = 1 / math.sqrt(2)
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    assert torch.allclose(w, -0.1 * 0.2 * math.sqrt(2) * x * torch.eye(2), rtol=0.03)


def test_muon_gives_matrices_and_the_rest_their_own_steps() -> None:
    """As torch.optim.Muon and torch.optim.AdamW apart, to the bit, and a schedule reaches both."""
    torch.manual_seed(0)
    start = torch.randn(3, 4), torch.randn(3)
    ours, apart = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    one = Muon().build(groups_of(*ours, decay=0.1), lr=0.1)
    others = [
        torch.optim.Muon([apart[0]], lr=0.1, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([apart[1]], lr=0.1, weight_decay=0.1, fused=True),
    ]
    schedules = [torch.optim.lr_scheduler.StepLR(o, 1, 0.5) for o in (one, *others)]
    for _ in range(3):
        gradients = [torch.randn_like(t) for t in start]
        for actual in (ours, apart):
            for parameter, gradient in zip(actual, gradients, strict=True):
                parameter.grad = gradient.clone()
        for step in (one, *others, *schedules):
            step.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, apart, strict=True))
    assert len(one.state) == 2 and not torch.equal(ours[0], start[0])


def test_schedule_free_is_the_average_of_the_paper() -> None:
    """z, x and y said apart, in plain numbers; a warm-up from a rate of 0 counts by the highest rate squared."""
    w = nn.Parameter(torch.tensor([1.0]))
    optimizer = ScheduleFree().build(groups_of(w, decay=0.1), lr=0.1)
    z = x = y = 1.0
    v, total = 0.0, 0.0
    for t, (rate, gradient) in enumerate([(0.0, 0.3), (0.05, 0.5), (0.1, -0.2), (0.1, 0.4)], start=1):
        optimizer.param_groups[0]["lr"] = rate
        assert w.item() == pytest.approx(y, rel=1e-5)
        w.grad = torch.tensor([gradient])
        optimizer.step()
        v = 0.999 * v + 0.001 * gradient**2
        z -= rate * (gradient / (math.sqrt(v / (1 - 0.999**t)) + 1e-8) + 0.1 * y)
        total += rate**2
        c = rate**2 / total if total else 0.0
        x = (1 - c) * x + c * z
        y = 0.1 * z + 0.9 * x
        before = w.detach().clone()
        optimizer.eval()
        optimizer.eval()
        assert w.item() == pytest.approx(x, rel=1e-5)
        optimizer.train()
        assert torch.equal(w, before)
    assert x != pytest.approx(z, rel=1e-3)


def test_schedule_free_weights_that_begin_later_are_corrected_by_their_own_steps() -> None:
    """As gradual unfreezing lets them: their first step is as large as a first step is, not 25 times that."""
    early, late = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = ScheduleFree().build(groups_of(early, late), lr=0.1)
    for _ in range(1000):
        early.grad = torch.ones(1)
        optimizer.step()
    late.grad = torch.ones(1)
    optimizer.step()
    assert optimizer.state[late]["z"].item() == pytest.approx(-0.1, rel=1e-4)


def descend(choice: Optimizer, steps: int, state: dict[str, Any] | None = None, start: Any = None) -> tuple[Any, Any]:
    """Some steps on |A w|^2 + |v|^2, from a saved state or anew."""
    torch.manual_seed(0)
    target, w, v = torch.randn(8, 4), nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(4))
    if start is not None:
        with torch.no_grad():
            w.copy_(start[0]), v.copy_(start[1])
    optimizer = choice.build(groups_of(w, v, decay=0.01, lr=0.01), lr=0.01)
    if state is not None:
        optimizer.load_state_dict(state)
    for _ in range(steps):
        take_gradients(optimizer)
        optimizer.zero_grad()
        ((w - target).square().sum() + v.square().sum()).backward()
        optimizer.step()
    show_average(optimizer)
    loss = float(((w - target).square().sum() + v.square().sum()).detach())
    return (w.detach().clone(), v.detach().clone(), loss), optimizer.state_dict()


@pytest.mark.parametrize("choice", [*EACH, SGD(nesterov=True)], ids=name_of)
def test_goes_on_from_a_saved_state_to_the_bit_and_descends(choice: Optimizer, tmp_path: Path) -> None:
    before, _ = descend(choice, 0)
    straight, _ = descend(choice, 9)
    half, state = descend(choice, 5)
    torch.save(state, tmp_path / "optimizer.pt")
    again, _ = descend(choice, 4, torch.load(tmp_path / "optimizer.pt", weights_only=True), half)
    assert torch.equal(again[0], straight[0]) and torch.equal(again[1], straight[1])
    assert straight[2] < before[2] - 1e-3


@pytest.mark.parametrize("choice", [*EACH, SGD(nesterov=True)], ids=name_of)
def test_a_step_that_overflowed_is_not_taken(choice: Optimizer) -> None:
    """Under a GradScaler, fused or not; what is taken is taken in the unscaled gradient."""
    if isinstance(choice, AdamW8bit):
        pytest.skip("bitsandbytes has no scaler on a CPU")
    w = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer, scaler = choice.build(groups_of(w), lr=0.1), torch.amp.GradScaler("cpu", init_scale=8.0)
    for gradient, moves in ((math.inf, False), (0.5, True)):
        optimizer.zero_grad()
        scaler.scale((w * torch.tensor([gradient, 0.25])).sum()).backward()
        before = w.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(w, before) is not moves
    expected = choice.build(groups_of(other := nn.Parameter(torch.tensor([1.0, -2.0]))), lr=0.1)
    other.grad = torch.tensor([0.5, 0.25])
    expected.step()
    assert torch.allclose(w, other, atol=1e-6)


# In the Trainer


def test_what_is_judged_and_saved_is_the_average(tmp_path: Path) -> None:
    """The checkpoint's weights are x, not y: they lie where z and the y of the optimizer's state say."""
    choice = ScheduleFree()
    made = trainer_with(update=UpdateRule(choice, resolve(None, warmup_steps=2, optimizer=choice)))
    trainer = small_trainer(tmp_path, "bert", trainer=made, num_train_epochs=2.0)
    trainer.train()
    folder = tmp_path / "checkpoints" / "checkpoint-10"
    saved, state = load_file(folder / "model.safetensors"), torch.load(folder / "optimizer.pt", weights_only=True)
    assert isinstance(trainer.optimizer, AcceleratedOptimizer)
    inner = trainer.optimizer.optimizer
    assert not any(group["training"] for group in inner.param_groups)
    names = {p: n for n, p in trainer.model.named_parameters()}
    moved = 0.0
    for place, parameter in enumerate(p for group in inner.param_groups for p in group["params"]):
        actual, x = state["state"][place], saved[names[parameter]]
        assert torch.allclose(0.1 * actual["z"] + 0.9 * x, actual["y"], atol=1e-6)
        moved = max(moved, float((x - actual["y"]).abs().max()))
    assert moved > 1e-4


TWO = """
import sys
from pathlib import Path
from test_optimizers import by_plateau
from hf_finetune.training.optim.config import Lion, Muon, ScheduleFree

for choice in (Lion(), Muon(), ScheduleFree()):
    trainer = by_plateau(Path(sys.argv[1]), choice, micro_batch=4)
    trainer.train()
    print("RATES", [x["learning_rate"] for x in trainer.state.log_history if "loss" in x])
    print("LOSSES", [round(x["loss"], 3) for x in trainer.state.log_history if "loss" in x])
    print("SUM", sum(p.double().sum().item() for p in trainer.model.parameters()), flush=True)
"""


def by_plateau(folder: Path, choice: Optimizer, *, micro_batch: int = 8) -> ClassifierTrainer:
    """Two epochs without dropout; the rate falls after each, whose accuracy is said to be the same."""
    name = None if isinstance(choice, ScheduleFree) else "reduce_lr_on_plateau"
    made = trainer_with(update=UpdateRule(choice, resolve(name, warmup_steps=2, optimizer=choice)))
    trainer = small_trainer(folder, "bert", trainer=made, micro_batch=micro_batch, num_train_epochs=3.0)
    trainer.metrics = lambda labels, logits: {"accuracy": 0.5}
    return trainer


def test_two_processes_do_as_one(tmp_path: Path) -> None:
    alone = [by_plateau(tmp_path, choice) for choice in (Lion(), Muon(), ScheduleFree())]
    said = run_in_two_processes(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{TWO}", tmp_path, folder=tmp_path
    )
    lines = [[line for line in out.splitlines() if line.startswith(("RATES", "SUM"))] for out in said]
    assert len(lines[0]) == 6 and lines[0][1::2] == lines[1][1::2]
    losses = [json.loads(line[7:]) for line in said[0].splitlines() if line.startswith("LOSSES")]
    rates = [json.loads(line[6:]) for line in lines[0][::2]]
    for trainer, actual, their_rates in zip(alone, losses, rates, strict=True):
        trainer.train()
        log = [line for line in trainer.state.log_history if "loss" in line]
        assert actual == pytest.approx([line["loss"] for line in log], abs=0.02)
        assert their_rates == [line["learning_rate"] for line in log]
    assert rates[0][-1] == pytest.approx(1e-3 * 0.1) and rates[2][-1] == 1e-3


# In a recipe


RECIPE = Recipe(name="a", data=TextData(path="x"), model=Model("m"))


def read(*flags: str) -> Recipe:
    return parse_run(RunJob(RECIPE), list(flags), "test").recipe


def test_flags_and_yaml_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("optim:\n  optimizer: {type: SGD, momentum: 0.8}\n  layer_decay: 0.9\n")
    actual = read("--config", str(tmp_path / "a.yaml"))
    assert actual.optim.optimizer == SGD(momentum=0.8) and actual.optim.layer_decay == 0.9
    assert read("--optim.optimizer", "Lion").optim.optimizer == Lion()
    assert read("--optim.optimizer", "{type: SGD, momentum: 0.7}").optim.optimizer == SGD(momentum=0.7)
    assert read("--optim.optimizer", "SGD", "--optim.optimizer.nesterov").optim.optimizer == SGD(nesterov=True)
    assert read("--optim.optimizer.beta2", "0.95").optim.optimizer == AdamW(beta2=0.95)
    assert to_plain(actual)["optim"]["optimizer"] == {"type": "SGD", "momentum": 0.8, "nesterov": False}
    assert merge(RECIPE, to_plain(actual)) == actual


def test_combinations_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    base = RECIPE
    free = dataclasses.replace(base, optim=Optim(optimizer=ScheduleFree()))
    check(free)
    for wrong, message in (
        (
            dataclasses.replace(free, train=Train(lr_scheduler_type="linear")),
            "expected constant_with_warmup or constant",
        ),
        (dataclasses.replace(free, averaging=Averaging(ema_decay=0.9)), "^optim.optimizer: "),
        (dataclasses.replace(base, method="head", optim=Optim(optimizer=Muon())), "trains no hidden matrices"),
        (dataclasses.replace(base, method="head", optim=Optim(layer_decay=0.9)), "whose rate is train.learning_rate"),
    ):
        with pytest.raises(InputError, match=message):
            check(wrong)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="AdamW8bit needs bitsandbytes: pip install bitsandbytes, or use AdamW"):
        check(dataclasses.replace(base, optim=Optim(optimizer=AdamW8bit())))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    made = small_recipe(tmp_path_factory.mktemp("input"))
    return dataclasses.replace(made, train=dataclasses.replace(made.train, num_train_epochs=2.0))


@pytest.mark.parametrize("choice", EACH, ids=name_of)
def test_a_run_trains_saves_and_resumes(
    small: Recipe, choice: Optimizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(small, optim=Optim(optimizer=choice))
    result = run.run(recipe, Launch(output=str(tmp_path / "straight")))
    assert result is not None and result["parity"]["reload"]["ok"]
    assert result["learning_rate"] == pytest.approx(1e-4 * choice.rate_factor)
    trained = load_file(tmp_path / "straight" / "model" / "model.safetensors")
    start = load_file(Path(small.model.checkpoint) / "model.safetensors")
    query = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(trained[f"bert.{query}"], start[query])
    stored = json.loads((tmp_path / "straight" / "recipe.json").read_text())["recipe"]["optim"]["optimizer"]
    assert stored["type"] == name_of(choice)

    with monkeypatch.context() as patched:
        stop_after(patched, 9)
        with pytest.raises(StoppedBySignal, match="after saving step 9"):
            run.run(recipe, Launch(output=str(tmp_path / "stopped")))
    run.run(recipe, Launch(output=str(tmp_path / "stopped"), resume=True))
    again = load_file(tmp_path / "stopped" / "model" / "model.safetensors")
    assert all(torch.equal(again[n], t) for n, t in trained.items())
    assert np.isfinite(trained[f"bert.{query}"].numpy()).all()
