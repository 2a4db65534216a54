"""Greedy soup: by hand, and over the epochs of a run."""

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.small_runs import furthest, small_recipe, small_trainer, trainer_with, weights
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback, TrainerState

from hf_finetune import Averaging, Launch
from hf_finetune.pipeline import run
from hf_finetune.tasks import single_label
from hf_finetune.training.averaging import load_weights
from hf_finetune.training.best_weights import WeightAveraging
from hf_finetune.training.checkpoints import CheckpointKeeper, newest_whole
from hf_finetune.training.soup import Candidate, Soup, best_of, ingredients
from hf_finetune.training.trainer import ClassifierTrainer

pytestmark = pytest.mark.usefixtures("gate_here")


def test_added_unless_validation_falls(tmp_path: Path) -> None:
    """Weights 0, 4, 6, 10, and the nearer to 4 the better: 4 alone is best, 6 spoils it, then 0 would, 10 as well."""
    soup, model = Soup(tmp_path), nn.Linear(1, 1, bias=False)
    for step, value in enumerate([0.0, 4.0, 6.0, 10.0], 1):
        load_weights(model, {"weight": torch.tensor([[value]])})
        scored = TrainerState(global_step=step, log_history=[{"step": step, "eval_accuracy": 0.5}])
        soup.on_save(model, scored, tmp_path)
    tasted: list[float] = []

    def nearness(target: float, weights: dict[str, torch.Tensor]) -> float:
        tasted.append(weights["weight"].item())
        return -abs(weights["weight"].item() - target)

    alone, weight = soup.cook({1: -4.0, 2: 0.0, 3: -2.0, 4: -6.0}, partial(nearness, 4.0), greater_is_better=True)
    assert alone == Candidate("soup", (2,), 0.0) and weight["weight"].item() == 4.0
    # 4 with 6, with 0, with 10.
    assert tasted == [5.0, 2.0, 7.0]
    # Nearest to 5.2: 6, then with 4 (5), then with 0 (3.33) no, then with 10 (6.67) no. To 5, where 4 and 6 are equal:
    # 4 first.
    mixed, weight = soup.cook({1: -5.2, 2: -1.2, 3: -0.8, 4: -4.8}, partial(nearness, 5.2), greater_is_better=True)
    assert (
        mixed.steps == (3, 2)
        and mixed.step == 3
        and weight["weight"].item() == 5.0
        and mixed.metric == pytest.approx(-0.2)
    )
    # A loss: less is better; an equal one is added.
    flat, weight = soup.cook({1: 0.5, 2: 0.5, 3: 0.4, 4: 0.7}, lambda _: 0.4, greater_is_better=False)
    assert flat.steps == (3, 1, 2, 4) and weight["weight"].item() == 5.0


def test_choice() -> None:
    checkpoint, ema = Candidate("checkpoint", (5,), 0.9), Candidate("ema", (15,), 0.9)
    soup, one = Candidate("soup", (5, 10), 0.8), Candidate("soup", (5,), 0.9)
    assert best_of([checkpoint, ema, soup], greater_is_better=True) is ema
    assert best_of([checkpoint, ema, soup], greater_is_better=False) is soup
    assert best_of([checkpoint, one], greater_is_better=True) is checkpoint


class KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def trainer_at(folder: Path, *callbacks: TrainerCallback) -> ClassifierTrainer:
    """Four epochs of five steps whose accuracies fall; a soup is better than any, the more so the more is in it."""
    made = trainer_with(averaging=WeightAveraging(soup=Soup(folder / "checkpoints")), callbacks=callbacks)
    trainer = small_trainer(folder, "bert", num_train_epochs=4.0, dropout=None, trainer=made)
    trainer.add_callback(CheckpointKeeper([]))
    trainer.metrics = lambda labels, logits: {"accuracy": trainer.accuracies[trainer.state.global_step].pop(0)}
    trainer.accuracies = {5: [0.7], 10: [0.9], 15: [0.8], 20: [0.5, 0.95, 0.93, 0.95]}
    return trainer


def test_mean_of_the_epochs_that_help(tmp_path: Path) -> None:
    """Best first: 10, with 15 .95 as good, with 5 it falls to .93, with 20 it stays .95."""
    trainer = trainer_at(tmp_path)
    trainer.train()
    assert trainer.selection.best == Candidate("soup", (10, 15, 20), 0.95) and trainer.selection.best.step == 20
    files = ingredients(tmp_path / "checkpoints", 20)
    assert [f.name for f in files] == [
        "step-10.safetensors",
        "step-15.safetensors",
        "step-20.safetensors",
        "step-5.safetensors",
    ]
    three = [load_file(f) for f in files[:3]]
    actual = {n: p.detach() for n, p in trainer.model.named_parameters()}
    assert furthest(actual, {n: sum(w[n].double() for w in three) / 3 for n in three[0]}) < 1e-6
    # The optimizer's state is kept of the last two and the best alone.
    kept = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"checkpoint-10", "checkpoint-15", "checkpoint-20", "soup"}


@pytest.mark.parametrize("step", [7, 18])
def test_killed_run_cooks_the_same_soup(tmp_path: Path, step: int) -> None:
    straight = trainer_at(tmp_path / "straight")
    straight.train()
    with pytest.raises(KeyboardInterrupt):
        trainer_at(tmp_path / "killed", KillAt(step)).train()
    again = trainer_at(tmp_path / "killed")
    again.train(resume_from_checkpoint=str(newest_whole(tmp_path / "killed" / "checkpoints")))
    assert again.selection == straight.selection and furthest(weights(again), weights(straight)) == 0.0
    over = trainer_at(tmp_path / "killed")
    over.accuracies[20] = over.accuracies[20][1:]
    over.train(resume_from_checkpoint=str(newest_whole(tmp_path / "killed" / "checkpoints")))
    assert over.selection == straight.selection and furthest(weights(over), weights(straight)) == 0.0


def test_checkpoint_without_an_ingredient_is_passed_over(tmp_path: Path) -> None:
    trainer_at(tmp_path).train()
    folder = tmp_path / "checkpoints"
    assert newest_whole(folder).name == "checkpoint-20"
    (folder / "soup" / "step-20.safetensors").write_bytes(b"")
    assert newest_whole(folder).name == "checkpoint-15"
    (folder / "soup" / "step-5.safetensors").unlink()
    assert newest_whole(folder) is None


def test_run_keeps_its_soup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is scored later is better: the soup takes the three epochs, the last one first; model/ holds their
    mean."""
    scores = itertools.count(1)
    monkeypatch.setattr(single_label, "classification_metrics", lambda *_: {"accuracy": next(scores) / 10})
    small = small_recipe(tmp_path)
    recipe = replace(
        small,
        averaging=Averaging(soup=True, tail_share=0.5, tail_every="epoch"),
        train=replace(small.train, num_train_epochs=3.0, learning_rate=1e-5, keep_checkpoints=True),
    )
    result = run.run(recipe, Launch(output=str(tmp_path / "run")))
    assert result["parity"]["reload"]["ok"]
    best = result["best"]
    assert [c["weights"] for c in best["candidates"]] == ["checkpoint", "tail", "soup"]
    # Three epochs and the tail at the end of two of them, then the two additions to the last epoch.
    soup = {"weights": "soup", "steps": [21, 14, 7], "accuracy": 0.7}
    assert best["candidates"][2] == soup and best.items() >= {"step": 21, **soup}.items()
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    used = [load_file(tmp_path / "run" / "checkpoints" / "soup" / f"step-{step}.safetensors") for step in (7, 14, 21)]
    assert max(float((saved[n] - sum(w[n] for w in used) / len(used)).abs().max()) for n in used[0]) < 1e-6
