"""Checkpoints are whole or not there; a killed run goes on to the same bits."""

import os
import signal
from pathlib import Path

import pytest
from small_runs import furthest, small_trainer, weights
from transformers import TrainerCallback

from hf_finetune.errors import StoppedBySignal
from hf_finetune.training.checkpoints import CheckpointKeeper, catching_signals, is_whole, newest_whole, seal


class KillAt(TrainerCallback):
    """Fails as a crash would, in the middle of an epoch or of a save."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class SignalAt(KillAt):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def trainer_at(
    folder: Path, *callbacks: TrainerCallback, dropout: float | None = None, signals: list[int] | None = None
):
    trainer = small_trainer(folder, "bert", num_train_epochs=3.0, dropout=dropout, lr_scheduler_type="linear")
    for callback in (*callbacks, CheckpointKeeper([] if signals is None else signals)):
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
    found = newest_whole(tmp_path / "killed" / "checkpoints")
    assert (found is None) == (step < 5)
    again.train(resume_from_checkpoint=None if found is None else str(found))
    assert furthest(weights(again), weights(straight)) == 0.0
    assert again.state.best_metric == straight.state.best_metric


def test_signal_saves_in_the_middle_of_an_epoch_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    straight = trainer_at(tmp_path / "straight")
    straight.train()
    with catching_signals() as signals, pytest.raises(StoppedBySignal, match="SIGTERM after saving step 7"):
        trainer_at(tmp_path / "stopped", SignalAt(7), signals=signals).train()
    found = newest_whole(tmp_path / "stopped" / "checkpoints")
    assert found is not None and found.name == "checkpoint-7"
    again = trainer_at(tmp_path / "stopped")
    again.train(resume_from_checkpoint=str(found))
    assert furthest(weights(again), weights(straight)) == 0.0


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
