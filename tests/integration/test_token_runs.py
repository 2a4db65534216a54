"""Tags of words: every method trains on windows, saves, loads in plain transformers, and predicts the same."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers import gate
from helpers.data_files import parquet_file
from helpers.tiny import tiny_text_checkpoint
from transformers import pipeline

import hf_finetune
from hf_finetune.cli import main
from hf_finetune.errors import InputError

FLAGS = ["--max-length", "12", "--epochs", "2", "--mixed-precision", "no", "--evaluate.resamples", "100"]
FLAGS += ["--train.learning-rate", "3e-3", "--evaluate.parity-rows", "16", "--evaluate.no-plots"]
TAGS = {"good": "B-OPINION", "bad": "B-OPINION", "very": "I-OPINION", "film": "B-THING", "plot": "B-THING"}


def words(i: int) -> list[str]:
    """A sentence of 4 to 18 words, most of which are longer than the windows."""
    pool = ["a", "good", "very", "film", "the", "bad", "plot", "is", "of"]
    return [pool[(i * 7 + j * j) % len(pool)] for j in range(4 + i % 15)]


def table(tmp_path: Path, *, entities: bool = True) -> Path:
    sentences = [words(i) for i in range(40)]
    tags = [[TAGS.get(word, "O") if entities else word[0].upper() for word in each] for each in sentences]
    return parquet_file(tmp_path / "words.parquet", tokens=sentences, ner_tags=tags)


def command(name: str, *arguments: Any) -> None:
    main.COMMANDS[name].run([str(argument) for argument in arguments])


def document(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


@pytest.mark.parametrize("constrained", [False, True])
def test_entities(
    tmp_path: Path, constrained: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a gate in a fresh process once; the methods are of `test_task_contract`."""
    if constrained:
        gate.run_here(monkeypatch.setattr)
    data, model, run = table(tmp_path), tiny_text_checkpoint(tmp_path / "bert"), tmp_path / "run"
    flags = ["--evaluate.constrained-decoding", "--method", "top"] if constrained else []
    command("train", data, "--model", model, "--output", run, *FLAGS, *flags)
    result = document(run)
    assert result["task"] == "token-classification" and result["problem_type"] == "named_entity_recognition"
    assert set(result["parity"]) >= {"reload", "pipeline"} and all(check["ok"] for check in result["parity"].values())
    assert set(result["baselines"]) == {"majority", "linear"} and "entity_f1" in result["metrics"]["validation"]
    assert set(result["per_class"]["validation"]) == {"OPINION", "THING"}
    assert "pipeline_tag: token-classification" in (run / "README.md").read_text()

    predictions = pq.read_table(run / "predictions.parquet").to_pylist()
    rows = pq.read_table(data).to_pylist()
    for row in predictions:
        assert row["words"] == rows[row["row"]]["tokens"] and row["label"] == rows[row["row"]]["ner_tags"]
        assert len(row["predicted"]) == len(row["words"]) == len(row["score"])

    # The other doors, with the same numbers for the same words.
    classifier = hf_finetune.Classifier.load(run)
    few = predictions[:5]
    assert classifier.predict([row["words"] for row in few]) == [row["predicted"] for row in few]
    text = "A very good film, not bad!"
    found = classifier.predict(text)
    assert all(text[each["start"] : each["end"]] == each["text"] for each in found)
    probabilities = classifier.predict_proba([row["words"] for row in few])
    assert [p.shape for p in probabilities] == [(len(row["words"]), len(result["labels"])) for row in few]
    if not constrained:
        plain = pipeline("token-classification", str(run / "model"), aggregation_strategy="first")
        assert [(e["start"], e["end"]) for e in plain("good film")] == [
            (e["start"], e["end"]) for e in classifier.predict("good film")
        ]
    if not constrained:
        capsys.readouterr()
        command("predict", run, data, "--output", tmp_path / "p.jsonl")
        first = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0])
        assert len(first["predicted"]) == len(first["words"]) and isinstance(first["entities"], list)
        command("predict", run, "--text", text)


@pytest.mark.usefixtures("gate_here")
def test_a_student_has_other_windows_than_its_teacher(tmp_path: Path) -> None:
    data, model = table(tmp_path, entities=False), tiny_text_checkpoint(tmp_path / "bert")
    command("train", data, "--model", model, *FLAGS, "--evaluate.no-baselines", "--output", tmp_path / "teacher")
    one = document(tmp_path / "teacher")
    assert one["problem_type"] == "token_classification" and "entity_f1" not in one["metrics"]["validation"]

    # The student's windows are longer, and it learns from the same words.
    flags = [data, "--model", model, *FLAGS, "--max-length", "20", "--epochs", "1"]
    command("train", *flags, "--output", tmp_path / "student", "--teacher", tmp_path / "teacher")
    student = document(tmp_path / "student")
    teacher = student["teacher"]["metrics"]["validation"]["accuracy"]["value"]
    assert teacher == pytest.approx(one["metrics"]["validation"]["accuracy"]["value"])
    assert 0 <= student["teacher"]["agreement"] <= 1 and student["parity"]["reload"]["ok"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.pooling", "mean"], "model.pooling: expected its default with tokens: its head reads words"),
        (
            ["--data.augment", "[SwapWords]"],
            "data.augment: expected its default with tokens: operations on texts change",
        ),
        (["--evaluate.metric", "r2"], "evaluate.metric: expected a metric of tokens"),
    ],
)
def test_what_tokens_do_not_have_is_refused(tmp_path: Path, flags: list[str], message: str) -> None:
    data, model = table(tmp_path), tiny_text_checkpoint(tmp_path / "bert")
    with pytest.raises(InputError, match=message):
        command("train", data, "--model", model, "--output", tmp_path / "run", *FLAGS, *flags)
    assert not (tmp_path / "run").exists()
