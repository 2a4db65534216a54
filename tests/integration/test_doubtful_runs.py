"""A run whose result is doubtful says why, with the remedy: in the terminal, in result.json, on the card."""

import csv
import json
import re
from pathlib import Path

import pytest
from helpers.small_runs import text_rows
from helpers.tiny import tiny_text_checkpoint

from hf_finetune.cli import main
from hf_finetune.errors import InputError

SHARE = """
import datasets, evaluate

class Share(evaluate.Metric):
    def _info(self):
        ids = datasets.Value("int64")
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(predictions=ids, references=ids))

    def _compute(self, predictions, references):
        return {"share": sum(p == r for p, r in zip(predictions, references)) / len(references)}
"""


@pytest.mark.usefixtures("gate_here")
def test_a_rare_class_that_is_never_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three classes, of which neutral has four rows; one is held out for validation."""
    rows = [(row["text"], ("bad", "good")[row["label"]]) for row in text_rows(60)]
    rows += [(text, "neutral") for text in ("a film", "a plot in time", "the actors", "the end")]
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    model, run = str(tiny_text_checkpoint(tmp_path / "bert")), tmp_path / "run"
    flags = ["--epochs", "4", "--train.learning-rate", "3e-3", "--max-length", "16"]
    flags += ["--mixed-precision", "no", "--evaluate.resamples", "100", "--evaluate.metric", "accuracy"]
    metric = tmp_path / "share.py"
    metric.write_text(SHARE)
    flags += ["--evaluate.extra", str(metric)]
    main.COMMANDS["train"].run([str(tmp_path / "reviews.csv"), "--model", model, "--output", str(run), *flags])
    printed = capsys.readouterr().out
    result = json.loads((run / "result.json").read_text())
    neutral = result["per_class"]["validation"]["neutral"]
    assert neutral["precision"] is None and neutral["recall"]["value"] == 0 and neutral["support"] == 1
    by_name = {doubt["name"]: doubt for doubt in result["doubts"]}
    assert {"never_predicted", "few_rows", "truncated"} <= by_name.keys()
    message = by_name["never_predicted"]["message"]
    assert message.startswith("'neutral' is never predicted: 0 of 1 validation rows of it are recognized; it has 3 of ")
    assert "--objective.class-weights Balanced" in by_name["never_predicted"]["remedy"]
    as_one_line = " ".join(printed.split())
    assert all(f"- {d['message']} remedy: {d['remedy']}" in as_one_line for d in result["doubts"])
    assert re.search(r"^neutral +-  ", printed, re.MULTILINE)
    card = (run / "README.md").read_text()
    assert "| `neutral` |  | 0.000 [0.000, 0.793] |" in card
    assert "- 'neutral' is never predicted: 0 of 1 validation rows" in card.partition("## Limitations")[2]

    assert result["metrics"]["validation"]["share"]["value"] == result["metrics"]["validation"]["accuracy"]["value"]
    assert "share " in printed and "| share | " in card and "type: share" in card

    (tmp_path / "two.csv").write_text("text,label\na good film,good\na bad film,bad\n")
    main.COMMANDS["evaluate"].run([str(run), str(tmp_path / "two.csv"), "--extra", str(metric)])
    printed = " ".join(capsys.readouterr().out.split())
    assert "no scored row is of 'neutral'" in printed and "over 2 of 3 classes" in printed and "share " in printed
    arguments = [str(tmp_path / "reviews.csv"), "--model", model, "--output", str(tmp_path / "no"), *flags]
    with pytest.raises(InputError, match=r"evaluate\.extra: nothing_of_theirs: no such path"):
        main.COMMANDS["train"].run([*arguments, "nothing_of_theirs"])
    assert not (tmp_path / "no").exists()
