"""A run with a tracker: it gets the lines of log.jsonl of both stages, and the results, and no local path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.small_runs import small_recipe

from hf_finetune import Evaluate, Launch, MaskedLanguage, Pretrain
from hf_finetune.pipeline import track
from hf_finetune.pipeline.run import run
from hf_finetune.training.trackers.base import Results, Session, Tracker, scalar_names


class Recorder(Tracker):
    """Writes what it gets into DIR/logs."""

    def __init__(self, session: Session) -> None:
        self.session, self.lines = session, list[object]()
        assert (session.folder.parent / "recipe.json").exists(), "the first file of a run"

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        self.lines.append([stage, step, dict(values)])

    def log_results(self, results: Results) -> None:
        self.results = results

    def close(self, *, succeeded: bool) -> None:
        assert succeeded


@pytest.mark.usefixtures("gate_here")
def test_a_tracked_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Recorder] = []

    def opener(session: Session) -> Tracker:
        opened.append(Recorder(session))
        return opened[-1]

    monkeypatch.setattr(track, "OPENERS", {"wandb": opener})
    monkeypatch.setattr("hf_finetune.pipeline.run.check_installed", lambda names: None)
    recipe = small_recipe(tmp_path)
    recipe = replace(
        recipe,
        train=replace(recipe.train, report_to="wandb", logging_steps=2),
        pretrain=Pretrain(MaskedLanguage(), num_train_epochs=1.0),
        evaluate=Evaluate(resamples=100),
    )
    folder = tmp_path / "run"
    result = run(recipe, Launch(str(folder)))
    assert result is not None
    (recorder,) = opened
    for stage, log in (("train", folder / "log.jsonl"), ("pretrain", folder / "pretraining" / "log.jsonl")):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        expected = [[stage, line["step"], scalar_names(stage, line)] for line in lines]
        for _, _, values in expected:
            del values[f"{stage}/step"], values[f"{stage}/time"]
        assert [line for line in recorder.lines if line[0] == stage] == expected
    accuracy = result["metrics"]["validation"]["accuracy"]
    assert recorder.results.metrics["validation/accuracy"] == accuracy["value"]
    assert recorder.results.metrics["validation/accuracy_high"] == accuracy["high"]
    assert recorder.results.step == result["steps"] and "baselines/linear/accuracy" in recorder.results.metrics
    assert [label for label, *_ in recorder.results.classes] == ["bad", "good"]
    assert list(recorder.results.plots) == result["plots"] and all(p.is_file() for p in recorder.results.plots.values())
    assert result["plots"][-1] == "pretraining_curves"
    assert recorder.session.config["model.checkpoint"] == "bert" and str(tmp_path) not in str(recorder.session.config)
