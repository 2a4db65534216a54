"""Checkpoints are whole or not there; a killed run goes on to the same bits."""

import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.damage import Payload
from helpers.small_runs import furthest, small_trainer, trainer_with, weights
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.training import checkpoints
from hf_finetune.training.checkpoints import (
    CheckpointKeeper,
    SaveInterval,
    catching_signals,
    is_whole,
    newest_whole,
    seal,
    train_until_stopped,
)
from hf_finetune.training.optim.config import AdamW
from hf_finetune.training.optim.schedule_config import resolve
from hf_finetune.training.optim.update_rule import UpdateRule


class KillAt(TrainerCallback):
    """Fails as a crash would, in the middle of an epoch or of a save."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class SignalAt(KillAt):
    def __init__(self, step: int, number: signal.Signals = signal.SIGTERM) -> None:
        super().__init__(step)
        self.number = number

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


class KillAfterSaveAt(KillAt):
    """Fails when the checkpoint of a step is whole."""

    def on_step_end(self, args, state, control, **_):
        pass

    def on_save(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


AT_EPOCHS = SaveInterval()


def trainer_at(
    folder: Path,
    *callbacks: TrainerCallback,
    dropout: float | None = None,
    signals: list[int] | None = None,
    epochs: float = 3.0,
    interval: SaveInterval = AT_EPOCHS,
):
    linear = UpdateRule(schedule=resolve("linear", warmup_steps=0, optimizer=AdamW()))
    made = trainer_with(update=linear)
    trainer = small_trainer(folder, "bert", num_train_epochs=epochs, dropout=dropout, trainer=made)
    for callback in (*callbacks, CheckpointKeeper([] if signals is None else signals, interval)):
        trainer.add_callback(callback)
    return trainer


@pytest.mark.parametrize("step", [3, 7, 11, 14])
def test_killed_run_resumes_to_the_same_bits(tmp_path: Path, step: int) -> None:
    """Dropout is on: the random numbers have to go on where they were, too."""
    straight = trainer_at(tmp_path / "straight")
    straight.train()
    with pytest.raises(KeyboardInterrupt):
        trainer_at(tmp_path / "killed", KillAt(step)).train()
    again = trainer_at(tmp_path / "killed")
    result = newest_whole(tmp_path / "killed" / "checkpoints")
    assert (result is None) == (step < 5)
    again.train(resume_from_checkpoint=None if result is None else str(result))
    assert furthest(weights(again), weights(straight)) == 0.0
    assert again.state.best_metric == straight.state.best_metric


@pytest.mark.parametrize("interval", [SaveInterval(steps=3), SaveInterval(seconds=1.5)])
def test_saves_within_an_epoch_change_nothing_and_are_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: SaveInterval
) -> None:
    """Epochs of 5 steps of a second, killed after 13: the last checkpoints are of the end of an epoch and of step 12."""
    straight = trainer_at(tmp_path / "straight")
    straight.train()
    clock = iter(range(1000))
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(KeyboardInterrupt):
        trainer_at(tmp_path / "killed", KillAt(13), interval=interval).train()
    folder = tmp_path / "killed" / "checkpoints"
    steps = sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.iterdir())
    assert steps[-2:] == [10, 12]
    again = trainer_at(tmp_path / "killed", interval=interval)
    again.train(resume_from_checkpoint=str(newest_whole(folder)))
    assert furthest(weights(again), weights(straight)) == 0.0
    assert again.state.best_metric == straight.state.best_metric


@pytest.mark.parametrize("unpadded", [False, True])
def test_killed_within_an_epoch_of_steps_of_unequal_size(tmp_path: Path, unpadded: bool) -> None:
    """With a token budget the checkpoint lies between steps of other sizes; it goes on with the rows that are left."""

    def trainer(folder: str, *callbacks: TrainerCallback):
        made = small_trainer(tmp_path / folder, "bert", token_budget=90, unpadded=unpadded, dropout=None)
        for callback in callbacks:
            made.add_callback(callback)
        return made

    straight = trainer("straight")
    straight.train()
    with catching_signals() as signals, pytest.raises(StoppedBySignal, match="after saving step 3"):
        trainer("stopped", SignalAt(3), CheckpointKeeper(signals)).train()
    result = newest_whole(tmp_path / "stopped" / "checkpoints")
    assert result is not None and straight.state.max_steps > 5
    again = trainer("stopped")
    again.train(resume_from_checkpoint=str(result))
    assert again.state.global_step == straight.state.global_step
    assert furthest(weights(again), weights(straight)) == 0.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_saves_in_the_middle_of_an_epoch_and_resumes_to_the_same_bits(
    tmp_path: Path, number: signal.Signals
) -> None:
    straight = trainer_at(tmp_path / "straight")
    straight.train()
    with catching_signals() as signals, pytest.raises(StoppedBySignal, match=f"{number.name} after saving step 7"):
        trainer_at(tmp_path / "stopped", SignalAt(7, number), signals=signals).train()
    result = newest_whole(tmp_path / "stopped" / "checkpoints")
    assert result is not None and result.name == "checkpoint-7"
    again = trainer_at(tmp_path / "stopped")
    again.train(resume_from_checkpoint=str(result))
    assert furthest(weights(again), weights(straight)) == 0.0


def test_a_closed_terminal_may_signal_twice() -> None:
    """The system and the shell both send SIGHUP; the second one must not end the process while it saves."""
    with catching_signals() as signals:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
    assert signals == [signal.SIGHUP]
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_under_nohup_a_closed_terminal_changes_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catching_signals() as signals:
            signal.raise_signal(signal.SIGHUP)
        assert not signals
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("step", [10, 15])
def test_signal_in_the_last_step_of_an_epoch_does_not_skip_its_evaluation(tmp_path: Path, step: int) -> None:
    straight = trainer_at(tmp_path / "straight")
    straight.train()
    with catching_signals() as signals, pytest.raises(StoppedBySignal, match=f"after saving step {step}"):
        trainer_at(tmp_path / "stopped", SignalAt(step), signals=signals).train()
    again = trainer_at(tmp_path / "stopped")
    again.train(resume_from_checkpoint=str(newest_whole(tmp_path / "stopped" / "checkpoints")))
    evaluated = [[x["step"] for x in t.state.log_history if "eval_accuracy" in x] for t in (straight, again)]
    assert evaluated[0] == evaluated[1] == [5, 10, 15]
    assert furthest(weights(again), weights(straight)) == 0.0


@pytest.mark.parametrize("epochs", [3.0, 2.4])
def test_run_killed_after_its_last_checkpoint_takes_no_further_step(tmp_path: Path, epochs: float) -> None:
    """The stock Trainer goes on for a step when the last one was in the middle of an epoch."""
    straight = trainer_at(tmp_path / "straight", epochs=epochs)
    straight.train()
    with pytest.raises(KeyboardInterrupt):
        trainer_at(tmp_path / "killed", KillAfterSaveAt(straight.state.max_steps), epochs=epochs).train()
    # The folder may have been moved meanwhile.
    shutil.move(tmp_path / "killed", tmp_path / "moved")
    again = trainer_at(tmp_path / "moved", epochs=epochs)
    again.train(resume_from_checkpoint=str(newest_whole(tmp_path / "moved" / "checkpoints")))
    assert again.state.global_step == straight.state.global_step
    assert again.state.best_global_step == straight.state.best_global_step
    assert furthest(weights(again), weights(straight)) == 0.0


@pytest.mark.parametrize("killed_at", [10, 15, 20])
def test_early_stopping_goes_on_counting(tmp_path: Path, killed_at: int) -> None:
    """Patience of three epochs, the first one is the best: the run ends after the fourth, however often it was
    killed."""
    falling = {5: 0.9, 10: 0.5, 15: 0.7, 20: 0.6, 25: 0.8, 30: 0.8}

    def trainer(folder: Path, *callbacks: TrainerCallback):
        made = trainer_at(folder, EarlyStoppingCallback(3), *callbacks, epochs=6.0)
        made.metrics = lambda labels, logits: {"accuracy": falling[made.state.global_step]}
        return made

    straight = trainer(tmp_path / "straight")
    straight.train()
    assert straight.state.global_step == 20 and straight.state.best_global_step == 5
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "killed", KillAfterSaveAt(killed_at)).train()
    again = trainer(tmp_path / "killed")
    again.train(resume_from_checkpoint=str(newest_whole(tmp_path / "killed" / "checkpoints")))
    assert again.state.global_step == 20 and again.state.best_global_step == 5
    assert furthest(weights(again), weights(straight)) == 0.0


def test_checkpoint_whose_best_one_is_damaged_is_passed_over(tmp_path: Path) -> None:
    """At its end the run would have nothing to restore, and end with the last weights in place of the best."""
    trainer = trainer_at(tmp_path)
    answers = iter([{"accuracy": 0.7}, {"accuracy": 0.9}, {"accuracy": 0.1}, {"accuracy": 0.2}])
    trainer.metrics = lambda labels, logits: next(answers)
    trainer.args.num_train_epochs = 4
    trainer.train()
    folder = tmp_path / "checkpoints"
    assert newest_whole(folder).name == "checkpoint-20"
    (folder / "checkpoint-10" / "model.safetensors").write_bytes(b"")
    assert newest_whole(folder) is None


def test_damaged_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = trainer_at(tmp_path)
    trainer.train()
    folder = tmp_path / "checkpoints"
    assert newest_whole(folder).name == "checkpoint-15"
    optimizer = folder / "checkpoint-15" / "optimizer.pt"
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1
    optimizer.write_bytes(content)
    assert newest_whole(folder).name == "checkpoint-10"
    (folder / "checkpoint-10" / "rng_state.pth").unlink()
    assert newest_whole(folder) is None or newest_whole(folder).name == "checkpoint-5"
    assert "checkpoint-15 is unfinished or damaged" in caplog.text


@pytest.mark.parametrize("name", ["rng_state.pth", "optimizer.pt", "scheduler.pt"])
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, name: str) -> None:
    """Its pickles may come from somebody else, manifest and all: CVE-2026-1839."""
    with pytest.raises(KeyboardInterrupt):
        trainer_at(tmp_path, KillAfterSaveAt(5)).train()
    checkpoint, proof = tmp_path / "checkpoints" / "checkpoint-5", tmp_path / "proof"
    torch.save({"cpu": Payload(proof)}, checkpoint / name)
    seal(checkpoint)
    assert newest_whole(checkpoint.parent) == checkpoint
    with pytest.raises(InputError, match="holds more than weights and numbers and is not read"):
        train_until_stopped(trainer_at(tmp_path), checkpoint)
    assert not proof.exists()
    torch.load(checkpoint / name, weights_only=False)
    assert proof.exists(), "the payload works"


def test_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    trainer = trainer_at(tmp_path)
    answers = iter([{"accuracy": 0.9}, {"accuracy": 0.5}, {"accuracy": 0.7}, {"accuracy": 0.1}])
    trainer.metrics = lambda labels, logits: next(answers)
    trainer.args.num_train_epochs = 4
    trainer.train()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "checkpoint-15",
        "checkpoint-20",
        "checkpoint-5",
    ]


def test_manifest_is_what_makes_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    assert not is_whole(checkpoint)
    seal(checkpoint)
    assert is_whole(checkpoint)
    (checkpoint / "model.safetensors").write_bytes(b"weightz")
    assert not is_whole(checkpoint)
