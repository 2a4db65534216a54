"""Each tracker whose package is installed: what it wrote, read back by its own reader, also after a restart."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import matplotlib  # noqa: F401  # before the readers import it
import numpy as np
import pytest
from PIL import Image

from hf_finetune.training.trackers.base import Results, RunTrackers
from hf_finetune.training.trackers.openers import OPENERS

# Of the libraries, not of this package.
pytestmark = pytest.mark.filterwarnings("ignore")
CLASSES = [("neg|1", 1.0, 0.5, 0.66, 2), ("pos", None, 0.0, None, 1)]
LOSSES = [(1, 0.9), (2, 0.7), (3, 0.5)]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "plot.png")
    return Results(3, {"test/accuracy": 0.75}, CLASSES, {"confusion_matrix": tmp_path / "plot.png"})


def write(name: str, run: Path, results: Results) -> Path:
    """A run that is stopped after its second step, and resumed from its first."""
    pytest.importorskip(name)
    for steps, final in ((LOSSES[:2], False), (LOSSES[1:], True)):
        with RunTrackers({name: OPENERS[name]}, run, "reviews", {"train.seed": 0, "data.augment": []}) as trackers:
            trackers.callbacks("train")
            if not final:
                trackers.log("pretrain", {"loss": 8.0}, 7)
            for step, loss in steps:
                trackers.log("train", {"loss": loss, "eval_accuracy": 0.5}, step)
            if final:
                trackers.log_results(results)
    files = [path for path in run.rglob("*") if path.is_file()]
    assert {path.relative_to(run).parts[:2] for path in files} == {("logs", "id"), ("logs", name)}
    return run / "logs" / name


def test_tensorboard(tmp_path: Path, results: Results) -> None:
    folder = write("tensorboard", tmp_path / "run", results)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "train")).Reload()
    assert [(e.step, pytest.approx(e.value)) for e in events.Scalars("train/loss")] == LOSSES, "the repeated step once"
    assert [(e.step, e.value) for e in events.Scalars("test/accuracy")] == [(3, 0.75)]
    assert events.Tags()["images"] == ["plots/confusion_matrix"]
    table = events.Tensors("per_class/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| neg\\|1 | 1.0 | 0.5 | 0.66 | 2 |" in table and "| pos |  | 0.0 |  | 1 |" in table
    pretraining = EventAccumulator(str(folder / "pretrain")).Reload()
    assert [(e.step, e.value) for e in pretraining.Scalars("pretrain/loss")] == [(7, 8.0)]


def test_mlflow(tmp_path: Path, results: Results) -> None:
    folder = write("mlflow", tmp_path / "run", results)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    losses = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "train/loss")}
    assert list(losses.items()) == LOSSES and run.data.metrics["test/accuracy"] == 0.75
    assert run.info.status == "FINISHED" and run.data.params["train.seed"] == "0"
    assert {path.name for path in (folder / "artifacts").rglob("*.*")} == {"plot.png", "per_class.json"}


def test_trackio(tmp_path: Path, results: Results) -> None:
    import os

    folder = write("trackio", tmp_path / "run", results)
    assert "TRACKIO_DIR" not in os.environ
    with sqlite3.connect(folder / "hf_finetune.db") as database:
        rows = database.execute(
            "select step, json_extract(metrics, '$.\"train/loss\"'), json_extract(metrics, '$.\"test/accuracy\"'), "
            "run_name from metrics order by id"
        ).fetchall()
    assert {(step, loss) for step, loss, *_ in rows if loss is not None} == set(LOSSES)
    assert rows[-1][2] == 0.75 and len({name for *_, name in rows}) == 1
    second = write("trackio", tmp_path / "second", results)
    assert (second / "hf_finetune.db").exists(), "another run of this process has a folder of its own"


def test_wandb(tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are binary: that each process left a run of the same id, and what is beside them."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = write("wandb", tmp_path / "run", results)
    id = (tmp_path / "run" / "logs" / "id").read_text().strip()
    names = sorted(path.name for path in folder.glob("offline-run-*/run-*.wandb"))
    assert names == [f"run-{id}-pretrain.wandb", f"run-{id}.wandb", f"run-{id}.wandb"]
    assert len(list(folder.glob("offline-run-*/files/media/images/plots/*.png"))) == 1
    outside = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.suffix != ".log"]
    assert not outside, "an artifact that waits to be sent"
