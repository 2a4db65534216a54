"""The epoch that a run ends with, where no metric is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.small_runs import small_trainer, trainer_with
from torch import nn
from transformers import TrainerState

from hf_finetune.training.latest_epoch import FILE, LatestEpoch


def worse_by_three(logits_NC: np.ndarray, best_NC: np.ndarray) -> bool:
    """A test that takes a difference of three for one that is shown."""
    return float(best_NC.sum() - logits_NC.sum()) >= 3


def test_later_epochs_are_taken_unless_worse_than_the_best(tmp_path: Path) -> None:
    """The comparison is with the best, so that small losses do not add up; and it goes on after a restart."""
    scores, taken, latest = (
        [5.0, 7.0, 6.0, 5.0, 3.0, 5.0, 8.0, 4.0],
        [],
        LatestEpoch(worse_by_three, greater_is_better=True),
    )
    for score in scores:
        taken.append(latest.takes(score, np.array([[score]])))
        latest.on_save(nn.Linear(1, 1), TrainerState(), tmp_path)
        latest = LatestEpoch(worse_by_three, greater_is_better=True)
        latest.on_resume(nn.Linear(1, 1), tmp_path)
    assert taken == [True, True, True, True, False, True, True, False]


def test_the_trainer_ends_with_it(tmp_path: Path) -> None:
    """Where nothing is worse, with the last; where every difference is, with the best. The logits are in checkpoints."""
    steps = {}
    for name, verdict in (("last", False), ("best", True)):
        latest = LatestEpoch(lambda *_, verdict=verdict: verdict, greater_is_better=True)
        made = trainer_with(latest_epoch=latest)
        trainer = small_trainer(tmp_path / name, "bert", num_train_epochs=3.0, learning_rate=0.02, trainer=made)
        trainer.train()
        values = [line["eval_accuracy"] for line in trainer.state.log_history if "eval_accuracy" in line]
        steps[name] = trainer.state.best_global_step, 5 * (1 + int(np.argmax(values)))
        assert trainer.state.best_metric == values[(trainer.state.best_global_step or 0) // 5 - 1]
    assert steps["last"][0] == 15 and steps["best"][0] == steps["best"][1]
    assert len(list(tmp_path.rglob(FILE))) >= 2
