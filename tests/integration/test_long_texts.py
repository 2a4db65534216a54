"""Whole runs on texts whose labels are at their ends: read, saved, gated, used by every door, resumed."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.data_files import parquet_file
from helpers.small_runs import stop_after
from helpers.tiny import WORDS, tiny_text_checkpoint

import hf_finetune
from hf_finetune.cli import main
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.pipeline import choose_long

FLAGS = [
    "--max-length",
    16,
    "--epochs",
    2,
    "--mixed-precision",
    "no",
    "--evaluate.resamples",
    100,
    "--evaluate.no-plots",
    "--evaluate.no-baselines",
]
FLAGS += ["--train.learning-rate", "3e-3", "--evaluate.parity-rows", 16]


def table(tmp_path: Path, task: str = "single-label", count: int = 60) -> Path:
    """Texts of 3 to 50 words, of which the last one decides."""
    rng = np.random.default_rng(0)
    others = [word for word in WORDS.split() if word not in ("good", "bad")]
    ends = [("bad", "good")[i % 2] for i in range(count)]
    texts = [" ".join([*rng.choice(others, int(rng.integers(2, 50))), end]) for end in ends]
    label: Any = ends
    if task == "multi-label":
        label = [[end, "long"] if len(text.split()) > 14 else [end] for end, text in zip(ends, texts, strict=True)]
    if task == "regression":
        label = [1000.5 + 100 * (end == "good") + i / 7 for i, end in enumerate(ends)]
    return parquet_file(tmp_path / f"{task}.parquet", text=texts, label=label)


def command(name: str, *arguments: Any) -> None:
    main.COMMANDS[name].run([str(argument) for argument in arguments])


def document(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


def logits_of_the_card(run: Path, text: str) -> torch.Tensor:
    """Logits (C,) of a text by the card's own lines, with plain transformers."""
    use = (run / "README.md").read_text().partition("## How to use")[2].partition("## Training data")[0]
    code = next(block for block in re.findall(r"```python\n(.*?)```", use, re.DOTALL) if "inference_mode" in block)
    code = code.replace("'DIR/model'", repr(str(run / "model"))).replace('"DIR/model"', repr(str(run / "model")))
    code = code.replace("'DIR'", repr(str(run))).replace('"DIR"', repr(str(run)))
    names: dict[str, Any] = {}
    exec(code.replace('"A text to classify."', repr(text)), names)
    return names["logits"][0]


@pytest.mark.parametrize(
    ("way", "task", "method"),
    [
        ("head-tail", "single-label", "full"),
        ("sliding", "multi-label", "full"),
        ("sliding", "regression", "lora"),
        ("{type: chunk, pooling: attention}", "single-label", "lora"),
        ("{type: chunk, stride: 4}", "regression", "top"),
    ],
)
def test_doors(tmp_path: Path, way: str, task: str, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the gate in a fresh process; the other tests have it in theirs."""
    data, model, run = table(tmp_path, task), tiny_text_checkpoint(tmp_path / "bert"), tmp_path / "run"
    stride = ["--data.long.stride", 4] if way == "sliding" else []
    command("train", data, "--model", model, "--method", method, "--output", run, "--long", way, *stride, *FLAGS)
    result = document(run)
    assert all(check["ok"] for check in result["parity"].values()), result["parity"]
    chunks = "chunk" in way
    assert result["standalone"] is not chunks
    saved = json.loads((run / ("encoder" if chunks else "model") / "config.json").read_text())["long_texts"]
    assert saved["type"] == {"h": "HeadTail", "s": "Sliding", "{": "Chunk"}[way[0]]

    # One row per text in metrics and predictions; the other doors and the card's lines give the same.
    predictions = pq.read_table(run / "predictions.parquet").to_pandas()
    rows = pq.read_table(data).to_pandas().iloc[predictions["row"]]
    assert len(predictions) == result["rows"]["validation"]
    classifier = hf_finetune.Classifier.load(run)
    scores = classifier.predict_proba(rows["text"].tolist())
    if task == "regression":
        assert np.allclose(scores[:, 0], predictions["predicted"], rtol=1e-6)
    else:
        assert np.allclose(scores, predictions[[f"p:{label}" for label in result["labels"]]], atol=1e-5)
    longest = int(rows["text"].str.len().argmax())
    expected = scores[longest]
    logits = logits_of_the_card(run, rows["text"].iloc[longest]).numpy()
    by_card = {"single-label": lambda x: np.exp(x) / np.exp(x).sum(), "multi-label": lambda x: 1 / (1 + np.exp(-x))}
    assert np.allclose(by_card.get(task, lambda x: x)(logits), expected, rtol=1e-4, atol=1e-5)
    assert classifier.embed(rows["text"].tolist()).shape == (len(rows), 32)
    capsys.readouterr()
    command("evaluate", run, data, "--json")
    assert json.loads(capsys.readouterr().out)["rows"] == 60
    command("predict", run, data, "--output", tmp_path / "p.csv")
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 61


@pytest.mark.usefixtures("gate_here")
@pytest.mark.parametrize("way", ["sliding", "chunk"])
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = table(tmp_path), tiny_text_checkpoint(tmp_path / "bert")
    arguments = [data, "--model", model, "--long", way, "--data.long.stride", 2, *FLAGS]
    command("train", *arguments, "--output", tmp_path / "straight")

    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(StoppedBySignal):
            command("train", *arguments, "--output", tmp_path / "stopped")
    command("train", *arguments, "--output", tmp_path / "stopped", "--resume")
    one, other = (document(tmp_path / name) for name in ("straight", "stopped"))
    assert one["metrics"] == other["metrics"] and one["artifacts"] == other["artifacts"]


@pytest.mark.usefixtures("gate_here")
def test_teachers_and_refusals(tmp_path: Path) -> None:
    """A teacher and a student that read windows, and what cannot be."""
    data, model, teacher = table(tmp_path), tiny_text_checkpoint(tmp_path / "bert"), tmp_path / "teacher"
    arguments = [data, "--model", model, *FLAGS]
    command("train", *arguments, "--long", "sliding", "--data.long.stride", 2, "--output", teacher)
    taught = [*arguments, "--teacher", teacher, "--output", tmp_path / "student"]
    with pytest.raises(InputError, match="reads more than the beginning of a long text"):
        command("train", *taught, "--objective.kinds", "[SoftTargets, Embedding]")
    command("train", *taught, "--long", "sliding", "--data.long.stride", 2)
    assert document(tmp_path / "student")["teacher"]["metrics"]["validation"]["accuracy"]["n"] == 6
    with pytest.raises(InputError, match=r"data.long.stride: expected at most half of data.max_length, 8, got 32"):
        command("train", *arguments, "--long", "sliding", "--output", tmp_path / "x")
    with pytest.raises(InputError, match=r"objective.mix: expected none with data.long in windows"):
        command("train", *arguments, "--long", "chunk", "--objective.mix", "[Mixup]", "--output", tmp_path / "x")
    assert not (tmp_path / "x").exists()

    config = json.loads((teacher / "model/config.json").read_text())
    shutil.copytree(teacher / "model", tmp_path / "copy")
    (tmp_path / "copy/config.json").write_text(json.dumps(config | {"long_texts": {"type": "Chunk"}}))
    with pytest.raises(InputError, match=r"its config.json and its head do not agree on chunks of long texts"):
        hf_finetune.Classifier.load(tmp_path / "copy")


@pytest.mark.usefixtures("gate_here")
def test_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The way that is better by a paired test is trained, recorded and saved; `plan` has the cost of each."""
    data, model, run = table(tmp_path, count=120), tiny_text_checkpoint(tmp_path / "bert"), tmp_path / "run"
    arguments = [data, "--model", model, *FLAGS, "--long", "auto", "--data.validation-fraction", 0.3]
    command("plan", *arguments, "--json")
    plan = json.loads(capsys.readouterr().out)
    flags = [way["flags"] for way in plan["long"]]
    assert any("--long auto: " in note for note in plan["notes"]) and flags[-1].startswith("--max-length ")
    assert {flag.split()[1] for flag in flags[:-1]} == {"truncate", "head-tail", "sliding", "chunk"}
    assert plan["long"][0]["cost"] == 1 and plan["long"][0]["train_loop_s"] == plan["estimate"]["train_loop_s"]

    def scores(measurement: Any, way: Any) -> np.ndarray:
        """All right where the end is read, half of them elsewhere."""
        labels = np.asarray(measurement.validation["label"])
        right = labels if way.name == "head-tail" else np.zeros_like(labels)
        return np.eye(2)[right] * 0.8 + 0.1

    monkeypatch.setattr(choose_long._Measurement, "scores", scores)
    command("train", *arguments, "--output", run)
    choice = document(run)["data"]["long_choice"]
    assert choice["chosen"] == "head-tail" and "better by 0." in choice["why"]
    assert choice["measured"]["head-tail"]["difference"]["verdict"] == "better"
    assert choice["measured"]["sliding"]["difference"]["verdict"] == "worse"
    assert choice["measured"]["sliding"]["tokens"] > choice["measured"]["head-tail"]["tokens"]
    assert json.loads((run / "recipe.json").read_text())["recipe"]["data"]["long"] == {"type": "HeadTail", "head": 0.25}
    assert "better by 0." in (run / "README.md").read_text()
