"""Comparison of runs by their predictions, with values that a person can compute."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_finetune.cli.main import main_command
from hf_finetune.errors import InputError
from hf_finetune.inference.comparison import compare_runs


def run_folder(folder: Path, predicted: list[Any], true: list[Any], *, split: str = "test", **result: Any) -> str:
    """A run that predicted these rows."""
    folder.mkdir()
    names = sorted({*true, *predicted}) if isinstance(true[0], str) else ["score"]
    document = {"task": "text-classification", "method": "full", "labels": names, "metrics": {split: {}}} | result
    (folder / "result.json").write_text(json.dumps(document))
    (folder / "recipe.json").write_text(json.dumps({"recipe": {"data": {}, "model": {}, "hub": {}}}))
    columns = {"row": list(range(len(true))), "split": [split] * len(true), "label": true, "predicted": predicted}
    pq.write_table(pa.table(columns), folder / "predictions.parquet")
    return str(folder)


def test_classes_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["a", "b"] * 50
    first = run_folder(tmp_path / "one", labels[:80] + ["b", "a"] * 10, labels)
    second = run_folder(tmp_path / "two", ["b", "a"] + labels[2:90] + ["b", "a"] * 5, labels)
    comparison = compare_runs(first, second).to_dict()
    assert (comparison["rows"], comparison["split"], comparison["metric"]) == (100, "test", "accuracy")
    assert [run["value"] for run in comparison["runs"]] == [0.8, 0.88]
    other = comparison["runs"][1]
    assert (other["won"], other["lost"]) == (10, 2) and other["bootstrap"]["value"] == pytest.approx(0.08)
    assert other["mcnemar"] == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert other["difference"]["value"] == pytest.approx(0.08) and other["verdict"] == "better"
    assert other["bootstrap"]["low"] == pytest.approx(other["difference"]["low"], abs=0.02)
    assert [each["row"] for each in comparison["changed"]] == [0, 1, *range(80, 90)]
    # Three runs: the same difference, at half the level.
    three = compare_runs(first, second, second).to_dict()["runs"][1]
    assert three["difference"]["low"] < other["difference"]["low"]
    main_command(["compare", first, second])
    shown = capsys.readouterr().out
    assert "100 shared rows of the test split" in shown and "p = 0.039" in shown and "better" in shown
    assert "... and 2 more changed rows" in shown
    # A table of 80 columns has no room for these names, which stand above it, whole.
    assert f"1  {first}\n2  {second}\n" in shown
    assert all(len(line) <= 80 for line in shown.splitlines()[2:])


def test_tags_numbers_and_words(tmp_path: Path) -> None:
    tags = {"problem_type": "multi_label_classification", "labels": ["x", "y"]}
    labels: list[Any] = [["x"], ["x", "y"], []] * 10
    one = run_folder(tmp_path / "t1", labels, labels, split="validation", **tags)
    two = run_folder(tmp_path / "t2", [["x"]] * 30, labels, split="validation", **tags)
    other = compare_runs(one, two).to_dict()["runs"][1]
    assert other["verdict"] == "worse" and "mcnemar" not in other
    numbers: list[Any] = [float(i) for i in range(30)]
    regression = {"problem_type": "regression", "labels": ["score"]}
    one = run_folder(tmp_path / "n1", [n + 1 for n in numbers], numbers, **regression)
    two = run_folder(tmp_path / "n2", numbers, numbers, **regression)
    assert compare_runs(one, two).to_dict()["runs"][1]["value"] == 1
    words = {"problem_type": "token_classification", "label_task": "tokens", "labels": ["N", "V"]}
    sentences: list[Any] = [["N", "V"], ["V"]] * 15
    one = run_folder(tmp_path / "w1", sentences, sentences, **words)
    two = run_folder(tmp_path / "w2", [["N", "N"], ["V"]] * 15, sentences, **words)
    assert [run["value"] for run in compare_runs(one, two).to_dict()["runs"]] == [1, pytest.approx(2 / 3)]


def test_refusals(tmp_path: Path) -> None:
    labels = ["a", "b"] * 4
    first = run_folder(tmp_path / "one", labels, labels)
    with pytest.raises(InputError, match="expected two runs or more, got 1"):
        compare_runs(first)
    other = run_folder(tmp_path / "two", labels, ["b", "a"] * 4)
    with pytest.raises(InputError, match="row 0 of the test split has the label 'b', and 'a' in"):
        compare_runs(first, other)
    with pytest.raises(InputError, match="no rows of the split validation"):
        compare_runs(first, first, split="validation")
    with pytest.raises(InputError, match="it has other labels"):
        compare_runs(first, run_folder(tmp_path / "three", ["c"] * 8, ["c"] * 8))
    (tmp_path / "two" / "predictions.parquet").unlink()
    with pytest.raises(InputError, match="no such file; expected the folder of a run with its predictions"):
        compare_runs(first, other)
