"""The plots of a run from its folder: those for which it has data, also for a run of an earlier version."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.hub_run import RECIPE, example_result, write_run

from hf_finetune import Evaluate
from hf_finetune.cli.card import card
from hf_finetune.hub.run_facts import RunFacts
from hf_finetune.pipeline.document import write_documents
from hf_finetune.pipeline.draw_plots import draw_plots
from hf_finetune.pipeline.parity import Check


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run from before there were plots."""
    folder = write_run(tmp_path / "run")
    lines = [{"step": 1, "loss": 0.9, "learning_rate": 1e-4}, {"step": 1, "eval_accuracy": 0.5, "eval_log_loss": 0.6}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    columns = {"split": ["validation", "test", "test"], "label": ["negative"] * 3, "predicted": ["positive"] * 3}
    pq.write_table(pa.table(columns), folder / "predictions.parquet")
    return folder


def test_card_draws_the_plots_of_an_old_run_and_shows_them(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "plots/" not in (run / "README.md").read_text()
    card([str(run)])
    names = ["confusion_matrix", "learning_curves", "learning_rate", "reliability"]
    files = sorted(path.name for path in (run / "plots").iterdir())
    assert files == sorted(f"{name}.{format}" for name in names for format in ("png", "svg"))
    text = (run / "README.md").read_text()
    assert text == capsys.readouterr().out and all(f"](plots/{name}.png)" in text for name in names)


def test_they_are_there_before_the_gate_is_waited_for(run: Path) -> None:
    def checks() -> dict[str, Check]:
        assert (run / "plots" / "confusion_matrix.png").exists()
        (run / "result.json").unlink()
        return {"reload": Check(ok=False, error="no such class")}

    cost = {"time": {"parity_s": 2.5}}
    result = write_documents(run, RunFacts(RECIPE, example_result()), checks, lambda: cost)
    assert result == json.loads((run / "result.json").read_text())
    assert result["parity"] == {"reload": {"ok": False, "error": "no such class"}} and result["time"] == cost["time"]


def test_a_run_without_data_or_with_plots_off_has_none(run: Path) -> None:
    facts = RunFacts(RECIPE, {**example_result(), "calibration": None})
    assert draw_plots(run, RunFacts(replace(RECIPE, evaluate=Evaluate(plots=False)), facts.result)) == {}
    assert list(draw_plots(run, facts)) == ["learning_curves", "confusion_matrix", "learning_rate"]
    (run / "log.jsonl").unlink()
    (run / "predictions.parquet").unlink()
    assert draw_plots(run, facts) == {}


def test_damaged_data_cost_their_plot_and_a_warning(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / "log.jsonl").write_text("{")
    (run / "predictions.parquet").write_bytes(b"PAR1")
    with caplog.at_level(logging.WARNING):
        assert draw_plots(run, RunFacts(RECIPE, {**example_result(), "calibration": {"bins": 3}})) == {}
    assert len(caplog.messages) == 4 and all("not drawn" in message for message in caplog.messages)
