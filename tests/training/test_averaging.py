"""Running averages of the weights: by hand, over a run's own trajectory, across a kill."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.small_runs import furthest, small_recipe, small_trainer, trainer_with, weights
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback, TrainerState

from hf_finetune import Averaging, Launch, Recipe
from hf_finetune.errors import StoppedBySignal
from hf_finetune.pipeline import run
from hf_finetune.training import best_weights, checkpoints
from hf_finetune.training.averaging import Averages, Ema, Tail, load_weights, swapped
from hf_finetune.training.best_weights import WeightAveraging
from hf_finetune.training.checkpoints import CheckpointKeeper, newest_whole
from hf_finetune.training.optim.update_rule import UpdateRule
from hf_finetune.training.trainer import ClassifierTrainer

pytestmark = pytest.mark.usefixtures("gate_here")


def averaged(values: Sequence[float], *kinds: Ema | Tail, epoch: int = 1) -> Averages:
    """The averages after a run of one weight through `values`, the first of them before any step."""
    model, averages = nn.Linear(1, 1, bias=False), Averages(*kinds)
    load_weights(model, {"weight": torch.tensor([[values[0]]])})
    state = TrainerState(max_steps=len(values) - 1)
    for value in values[1:]:
        averages.before_step(model, state)
        load_weights(model, {"weight": torch.tensor([[value]])})
        state.global_step += 1
        averages.after_step(model, state)
        if state.global_step % epoch == 0:
            averages.after_epoch(model, state)
    return averages


def test_ema_by_hand() -> None:
    """Decay 2/11 and 3/12 in the first two steps, where 0.999 would remember nothing but the start."""
    actual = averaged([1.0, 2.0, 4.0], Ema(0.999)).means["ema"]["weight"].item()
    first = 2 / 11 * 1 + 9 / 11 * 2
    assert actual == pytest.approx(0.25 * first + 0.75 * 4)
    assert averaged([1.0, 2.0], Ema(0.1)).means["ema"]["weight"].item() == pytest.approx(1.9)


def test_tail_by_hand() -> None:
    """The last 30% of ten steps are the last three; an epoch of two steps ends at 8 and 10 among them."""
    values = [0.0, *(float(i * i) for i in range(1, 11))]
    assert averaged(values, Tail(0.3, "step")).means["tail"]["weight"].item() == pytest.approx((64 + 81 + 100) / 3)
    assert averaged(values, Tail(0.3, "epoch"), epoch=2).means["tail"]["weight"].item() == pytest.approx(82)
    only = averaged(values, Tail(0.001, "step"))
    assert only.means["tail"]["weight"].item() == 100 and only.counts["tail"] == 1
    assert averaged(values[:4], Tail(1.0, "step")).means["tail"]["weight"].item() == pytest.approx(14 / 3)


def test_weight_that_is_unfrozen_later_was_constant_until_then() -> None:
    model, averages = nn.Linear(1, 1), Averages(Ema(0.5))
    model.bias.requires_grad_(False)
    load_weights(model, {"weight": torch.tensor([[1.0]]), "bias": torch.tensor([1.0])})
    state = TrainerState(max_steps=9, global_step=100)
    averages.counts["ema"] = 100
    averages.before_step(model, state)
    assert averages.means["ema"].keys() == {"weight"}
    model.bias.requires_grad_(True)
    averages.before_step(model, state)
    load_weights(model, {"bias": torch.tensor([3.0])})
    averages.after_step(model, state)
    assert averages.means["ema"]["bias"].item() == 2.0


def test_swap_is_undone_to_the_bit() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with swapped(model, {"weight": torch.zeros(2, 2)}):
        assert not model.weight.any() and torch.equal(model.bias, before["bias"])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_saved_and_read_again(tmp_path: Path) -> None:
    """Also when the tail has not begun."""
    model, state = nn.Linear(1, 1), TrainerState()
    averages = averaged([1.0, 2.0, 4.0, 8.0], Ema(0.9), Tail(1.0, "step"))
    averages.on_save(model, state, tmp_path)
    again = Averages(Ema(0.9), Tail(1.0, "step"))
    again.on_resume(model, tmp_path)
    assert again.counts == {"ema": 3, "tail": 3}
    assert all(torch.equal(again.means[n]["weight"], averages.means[n]["weight"]) for n in ("ema", "tail"))
    Averages(Tail(0.5, "step")).on_save(model, state, tmp_path)
    again = Averages(Tail(0.5, "step"))
    again.on_resume(model, tmp_path)
    assert again.begun() == {}


class Recorder(TrainerCallback):
    """Every step's weights; fails as a crash would after step `until`."""

    def __init__(self, until: int = -1) -> None:
        self.until, self.seen = until, []

    def note(self, model: nn.Module) -> None:
        self.seen.append({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad})

    def on_train_begin(self, args, state, control, model=None, **_):
        self.note(model)

    def on_step_end(self, args, state, control, model=None, **_):
        self.note(model)
        if state.global_step == self.until:
            raise KeyboardInterrupt


def ema_of(trajectory: list[dict[str, torch.Tensor]], decay: float) -> dict[str, torch.Tensor]:
    """By its definition, in float64."""
    mean = {name: value.double() for name, value in trajectory[0].items()}
    for t, now in enumerate(trajectory[1:], 1):
        kept = min(decay, (1 + t) / (10 + t))
        mean = {name: kept * mean[name] + (1 - kept) * now[name].double() for name in mean}
    return mean


def tail_of(trajectory: list[dict[str, torch.Tensor]], count: int) -> dict[str, torch.Tensor]:
    last = trajectory[-count:]
    return {name: torch.stack([now[name].double() for now in last]).mean(0) for name in last[0]}


def trainer_at(folder: Path, *callbacks: TrainerCallback, sparse: bool = True, **choice) -> ClassifierTrainer:
    """Three epochs of five steps with dropout and sparse embeddings; EMA of 0.8 and the mean of the last five steps."""
    averages = Averages(Ema(0.8), Tail(0.3, "step"))
    made = trainer_with(
        averaging=WeightAveraging(averages), update=UpdateRule(sparse_embeddings=sparse), callbacks=callbacks
    )
    trainer = small_trainer(folder, "bert", num_train_epochs=3.0, dropout=None, weight_decay=0.01, trainer=made)
    trainer.add_callback(CheckpointKeeper([]))
    metrics = trainer.metrics
    trainer.metrics = lambda labels, logits: metrics(labels, logits) | choose(trainer, **choice)
    return trainer


def choose(trainer: ClassifierTrainer, **values: float) -> dict[str, float]:
    """Accuracies as wanted, by whose weights are being scored; those not named get 0."""
    names = ["ema", "tail"]
    now = dict(trainer.model.named_parameters())
    for name in names:
        means = trainer.setup.averaging.running.means[name]
        if means and all(torch.equal(now[key], mean) for key, mean in means.items()):
            return {"accuracy": values.get(name, 0.0)}
    return {"accuracy": values.get("checkpoint", 0.0) - 0.001 * trainer.state.global_step}


@pytest.mark.parametrize("kept", ["ema", "tail", "checkpoint"])
def test_validation_decides_what_is_kept(tmp_path: Path, kept: str) -> None:
    recorder = Recorder()
    trainer = trainer_at(tmp_path, recorder, **{kept: 0.9})
    trainer.train()
    by_name = {"ema": ema_of(recorder.seen, 0.8), "tail": tail_of(recorder.seen, 5), "checkpoint": recorder.seen[5]}
    actual = {n: p.detach() for n, p in trainer.model.named_parameters()}
    for name, expected in by_name.items():
        assert (furthest(actual, expected) < 1e-6) == (name == kept), name
    selection = trainer.selection
    assert selection.best.weights == kept and [c.weights for c in selection.candidates] == ["checkpoint", "ema", "tail"]
    assert [c.steps for c in selection.candidates] == [(5,), (15,), (15,)]
    scored = [
        [line["step"] for line in trainer.state.log_history if f"eval_{n}accuracy" in line] for n in ("ema_", "tail_")
    ]
    assert scored == [[5, 10, 15], [15]]


def test_of_equals_the_average_is_kept(tmp_path: Path) -> None:
    trainer = trainer_at(tmp_path, checkpoint=0.905, ema=0.9)
    trainer.train()
    checkpoint, ema, _ = trainer.selection.candidates
    assert checkpoint.metric == ema.metric == 0.9 and trainer.selection.best is ema


def test_tail_that_never_began_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Enough(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 3

    made = trainer_with(averaging=WeightAveraging(Averages(Tail(0.3, "step"))), callbacks=(Enough(),))
    stopped = small_trainer(tmp_path, "bert", trainer=made)
    stopped.train()
    assert stopped.selection.best.weights == "checkpoint" and len(stopped.selection.candidates) == 1
    assert "averaging: the run ended at step 3, before its tail began" in caplog.text


@pytest.mark.parametrize("step", [3, 7, 12])
def test_killed_run_averages_to_the_same_bits(tmp_path: Path, step: int) -> None:
    """Within an epoch, before and within the tail."""
    straight = trainer_at(tmp_path / "straight", ema=0.9)
    straight.train()
    with pytest.raises(KeyboardInterrupt):
        trainer_at(tmp_path / "killed", Recorder(step), ema=0.9).train()
    again = trainer_at(tmp_path / "killed", ema=0.9)
    actual = newest_whole(tmp_path / "killed" / "checkpoints")
    again.train(resume_from_checkpoint=None if actual is None else str(actual))
    for name in ("ema", "tail"):
        means = [trainer.setup.averaging.running.means[name] for trainer in (again, straight)]
        assert furthest(*means) == 0.0
    assert furthest(weights(again), weights(straight)) == 0.0
    over = trainer_at(tmp_path / "killed", ema=0.9)
    over.train(resume_from_checkpoint=str(newest_whole(tmp_path / "killed" / "checkpoints")))
    assert over.selection.best == straight.selection.best and furthest(weights(over), weights(straight)) == 0.0


def test_averages_do_not_touch_the_training(tmp_path: Path) -> None:
    plain = small_trainer(
        tmp_path,
        "bert",
        num_train_epochs=2.0,
        dropout=None,
        trainer=trainer_with(update=UpdateRule(sparse_embeddings=True), callbacks=(last := Recorder(),)),
    )
    plain.train()
    made = trainer_with(
        update=UpdateRule(sparse_embeddings=True),
        averaging=WeightAveraging(Averages(Ema(0.9))),
        callbacks=(beside := Recorder(),),
    )
    small_trainer(tmp_path, "bert", num_train_epochs=2.0, dropout=None, trainer=made).train()
    assert furthest(last.seen[-1], beside.seen[-1]) == 0.0


@pytest.mark.parametrize("method", ["full", "lora"])
def test_run_keeps_its_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """What model/ (and adapter/) holds is the average over the recorded steps; killed in the second epoch, and
    resumed."""
    seen: list[Recorder] = []

    class Watched(CheckpointKeeper):
        until = -1

        def __init__(self, *options) -> None:
            super().__init__(*options)
            seen.append(Recorder(self.until))

        def on_train_begin(self, args, state, control, **options):
            seen[-1].on_train_begin(args, state, control, **options)

        def on_step_end(self, args, state, control, **options):
            seen[-1].on_step_end(args, state, control, **options)
            return super().on_step_end(args, state, control, **options)

    monkeypatch.setattr(checkpoints, "CheckpointKeeper", Watched)
    small = small_recipe(tmp_path)
    recipe: Recipe = replace(
        small,
        method=method,
        averaging=Averaging(ema_decay=0.8),
        train=replace(small.train, num_train_epochs=2.0, learning_rate=3e-3, head_warm_start=False),
    )
    # Whatever validation says: the other tests are of the choice.
    monkeypatch.setattr(
        best_weights, "best_of", lambda candidates, **_: next(c for c in candidates if c.weights == "ema")
    )
    result = run.run(recipe, Launch(output=str(tmp_path / "straight")))
    assert all(check["ok"] for check in result["parity"].values())
    assert result["best"]["weights"] == "ema" and result["best"]["step"] == result["steps"] == 14
    assert [c["weights"] for c in result["best"]["candidates"]] == ["checkpoint", "ema"]
    card = (tmp_path / "straight" / "README.md").read_text()
    assert "averaging.ema_decay | 0.8" in card
    assert "ema, after step 14: the best of 2 on validation" in card
    saved = load_file(tmp_path / "straight" / "model" / "model.safetensors")
    expected = ema_of(seen[0].seen, 0.8)
    if method == "full":
        assert max(float((saved[n] - value).abs().max()) for n, value in expected.items()) < 1e-6
    else:
        adapter = load_file(tmp_path / "straight" / "adapter" / "adapter_model.safetensors")
        shared = {n: v for n, v in expected.items() if n.replace(".default", "") in adapter}
        assert len(shared) > 4
        assert max(float((adapter[n.replace(".default", "")] - v).abs().max()) for n, v in shared.items()) < 1e-6
        return
    monkeypatch.setattr(Watched, "until", 9)
    with pytest.raises(StoppedBySignal, match="--resume continues"):
        run.run(recipe, Launch(output=str(tmp_path / "killed")))
    monkeypatch.setattr(Watched, "until", -1)
    run.run(recipe, Launch(output=str(tmp_path / "killed"), resume=True))
    again = load_file(tmp_path / "killed" / "model" / "model.safetensors")
    assert all(torch.equal(again[name], saved[name]) for name in saved)
