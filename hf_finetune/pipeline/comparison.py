"""`pretrain.compare`: compare a run with the same run without pretraining, which trains for as long in all."""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from accelerate import PartialState

from hf_finetune.pipeline.evaluate import ScoredSplit
from hf_finetune.pipeline.train import TrainedRun
from hf_finetune.training.config import Train
from hf_finetune.utils.files import write_json

WITHOUT = "without"
"""Folder of the run without pretraining, inside that of the other run."""
STAGES = "pretraining/stages.json"


@dataclass(frozen=True)
class StageSeconds:
    """Seconds of the optimizer steps of pretraining and of training."""

    pretrain_s: float
    train_s: float


def stage_seconds(trained: TrainedRun) -> StageSeconds:
    """Return the seconds of both stages, as measured when they ended.

    They are stored, so that a restarted comparison trains for the same number of epochs.
    """
    path = trained.folder / STAGES
    if PartialState().is_main_process and not path.exists():
        assert trained.pretraining is not None, "the run pretrains"
        write_json(path, asdict(StageSeconds(trained.pretraining.loop_s, trained.trainer.clock.total)))
    PartialState().wait_for_everyone()
    return _stored_seconds(trained.folder)


def _stored_seconds(folder: Path) -> StageSeconds:
    return StageSeconds(**json.loads((folder / STAGES).read_text(encoding="utf-8")))


def longer_training(train: Train, seconds: StageSeconds) -> tuple[Train, float]:
    """Return the training with so many more epochs that it takes as long as both stages, and the factor."""
    factor = 1 + seconds.pretrain_s / seconds.train_s
    steps = -1 if train.max_steps < 0 else math.ceil(factor * train.max_steps)
    return replace(train, num_train_epochs=factor * train.epochs, max_steps=steps), factor


def comparison_section(folder: Path, judged: ScoredSplit) -> dict[str, Any]:
    """Return for result.json the scores of the run without pretraining, on the same judged rows.

    Args:
        folder: of the run with pretraining.
        judged: its judged split.
    """
    without = json.loads((folder / WITHOUT / "result.json").read_text(encoding="utf-8"))
    name = "test" if "test" in without["metrics"] else "validation"
    predictions = pq.read_table(folder / WITHOUT / "predictions.parquet").to_pandas()
    predictions = predictions[predictions["split"] == name]
    assert predictions["row"].tolist() == judged.rows["row"][:], "both runs have the same data"
    seconds, task = _stored_seconds(folder), judged.task
    others_NC = task.scores_of(predictions["predicted"].tolist())
    return {
        task.judged_by: without["metrics"][name][task.judged_by],
        "difference": task.compare(judged.labels, judged.scores_NC, others_NC),
        "steps": without["steps"],
        # Seconds of the optimizer steps: without pretraining, and of both stages together.
        "loop_s": without["time"]["all_steps_s"],
        "loop_s_with": round(seconds.pretrain_s + seconds.train_s, 2),
    }
