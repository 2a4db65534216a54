"""A run that drops bad rows lists them, and names of numbered classes go with its model."""

import csv
import json
from pathlib import Path

from helpers.forks import COMMAND_WITHOUT_GATE
from helpers.forks import run as in_a_process
from helpers.small_runs import text_rows
from helpers.tiny import tiny_text_checkpoint


def test_dropped_rows_and_label_names_of_a_run(tmp_path: Path) -> None:
    rows = text_rows(60)
    content = [*zip(rows["text"], rows["label"], strict=True), ("", 0), ("good", "")]
    for name, part in (("train", content), ("test", content[:20])):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *part])
    tiny_text_checkpoint(tmp_path / "bert")
    run = tmp_path / "run"
    flags = ["--model", tmp_path / "bert", "--method", "head", "--epochs", "1", "--max-length", "32", "--output", run]
    flags += ["--evaluate.no-plots", "--evaluate.no-baselines"]
    data = tmp_path / "train.csv"
    refused = in_a_process(COMMAND_WITHOUT_GATE, "train", data, *flags)
    assert refused.returncode == 2 and "--drop-bad-rows" in refused.stderr.splitlines()[0] and not run.exists()
    trained = in_a_process(COMMAND_WITHOUT_GATE, "train", data, *flags, "--drop-bad-rows", "--label-names", "bad,good")
    assert trained.returncode == 0, trained.stderr[-2000:]
    assert "train: 2 of 62 rows dropped: 1 text missing, 1 label missing" in trained.stderr
    assert len((run / "dropped.csv").read_text().splitlines()) == 3
    result = json.loads((run / "result.json").read_text())
    assert result["labels"] == ["bad", "good"]
    reasons = {"text missing": 1, "label missing": 1}
    assert result["data"]["dropped"] == {"train": {"rows": 2, "reasons": reasons}}
    assert "2 of 62 rows dropped" in (run / "README.md").read_text()
    # The model knows that 0 is bad.
    evaluated = in_a_process(COMMAND_WITHOUT_GATE, "evaluate", run, tmp_path / "test.csv", "--json")
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    assert json.loads(evaluated.stdout)["rows"] == 20
