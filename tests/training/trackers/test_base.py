"""The trackers of a run, with made-up ones: opened, fed, dropped when they fail, closed."""

from __future__ import annotations

import importlib.util
import logging
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from hf_finetune import InputError, Model, Recipe, TextData, Train
from hf_finetune.config.keywords import with_keywords
from hf_finetune.pipeline.run import prepare
from hf_finetune.training.trackers.base import Results, RunTrackers, Session, Tracker, scalar_names
from hf_finetune.training.trackers.config import TRACKERS
from hf_finetune.training.trackers.openers import OPENERS

RESULTS = Results(3, {"test/accuracy": 0.5}, [], {})


class Recorder(Tracker):
    """Remembers all calls."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.calls: list[object] = []

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        self.calls.append((stage, dict(values), step))

    def log_results(self, results: Results) -> None:
        self.calls.append(results)

    def close(self, *, succeeded: bool) -> None:
        self.calls.append(succeeded)


class Failing(Recorder):
    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        raise ConnectionError("no\nserver")


def test_names_are_those_of_transformers() -> None:
    assert scalar_names("train", {"loss": 0.5, "eval_accuracy": 1, "note": "x"}) == {
        "train/loss": 0.5,
        "eval/accuracy": 1,
    }
    assert scalar_names("pretrain", {"eval_held_out_loss": 2.0}) == {"pretrain/eval_held_out_loss": 2.0}


def test_a_run_opens_each_tracker_once_and_closes_it(tmp_path: Path) -> None:
    """Nothing is written before the first stage, and the id is the same after a restart."""
    opened: list[Recorder] = []

    def opener(session: Session) -> Tracker:
        opened.append(Recorder(session))
        return opened[-1]

    def trackers() -> RunTrackers:
        return RunTrackers({"mine": opener}, tmp_path / "run", "reviews", {"train.seed": 0})

    with trackers() as first:
        assert not (tmp_path / "run").exists()
        assert len(first.callbacks("pretrain")) == len(first.callbacks("train")) == 1
        first.log("train", {"loss": 0.5}, 1)
        first.log_results(RESULTS)
    assert [recorder.calls for recorder in opened] == [[("train", {"train/loss": 0.5}, 1), RESULTS, True]]
    with pytest.raises(KeyboardInterrupt), trackers() as second:
        second.log_results(RESULTS)  # a resumed run may have no step left
        raise KeyboardInterrupt
    assert opened[1].calls == [RESULTS, False]
    assert opened[0].session == opened[1].session and opened[0].session.folder == tmp_path / "run" / "logs"


def test_a_run_without_trackers_writes_nothing(tmp_path: Path) -> None:
    with RunTrackers({}, tmp_path / "run") as none:
        assert none.callbacks("train") == []
        none.log_results(RESULTS)
    assert not (tmp_path / "run").exists()


def test_one_that_fails_is_dropped_and_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    others: list[Recorder] = []

    def opener(session: Session) -> Tracker:
        others.append(Recorder(session))
        return others[-1]

    def missing(session: Session) -> Tracker:
        raise ImportError("no module")

    with caplog.at_level(logging.WARNING), RunTrackers({"a": Failing, "b": missing, "c": opener}, tmp_path) as trackers:
        trackers.log("train", {"loss": 0.5}, 1)
        trackers.log("train", {"loss": 0.4}, 2)
    assert caplog.messages == [
        "a: failed and logs no further, the run goes on (no server)",
        "b: failed and logs no further, the run goes on (no module)",
    ]
    assert len(others[0].calls) == 3


def test_names_by_flag_keyword_and_file() -> None:
    recipe = Recipe(name="r", data=TextData(path="rows.csv"), model=Model(checkpoint="bert"))
    for value in ("tensorboard,wandb", ["tensorboard", "wandb"], ("tensorboard, wandb", "wandb")):
        assert with_keywords(recipe, {"report_to": value}).train.report_to == ("tensorboard", "wandb")
    with pytest.raises(InputError, match=r"no tracker 'tensorbord', did you mean 'tensorboard'\?"):
        Train(report_to=("tensorbord",))
    with pytest.raises(InputError, match="no tracker 'all'; one of tensorboard, trackio, wandb, mlflow"):
        Train(report_to=("all",))


def test_names_in_extra_as_earlier_versions_had_them() -> None:
    train = Train(report_to=("mlflow",), extra={"report_to": ["wandb", "clearml"], "logging_first_step": True})
    assert train.trackers == ("mlflow", "wandb") and Train(extra={"report_to": "wandb"}).trackers == ("wandb",)
    assert train.untracked() == Train(extra={"logging_first_step": True})


def test_a_missing_package_is_one_line_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    recipe = Recipe(
        name="r", data=TextData(path="no/rows.csv"), model=Model(checkpoint="no"), train=Train(report_to=("wandb",))
    )
    with pytest.raises(
        InputError, match=r"^train.report_to: wandb is not installed; pip install 'hf_finetune\[wandb\]', "
    ):
        prepare(recipe)


def test_every_tracker_has_an_opener_and_an_extra() -> None:
    extras = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert tuple(OPENERS) == TRACKERS
    for name in TRACKERS:
        (requirement,) = extras[name]
        assert requirement.startswith(f"{name}>=") and ",<" in requirement
