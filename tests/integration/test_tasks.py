"""Runs of tags and of numbers from every door, as plain transformers reads them. `test_task_contract` has the methods."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import gate
from helpers.data_files import parquet_file
from helpers.tiny import tiny_text_checkpoint
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import hf_finetune
from hf_finetune.cli import main
from hf_finetune.errors import InputError

WORDS = ("a good film", "a bad film", "the plot is bad", "the actors are good", "the end of a film", "a plot in time")
FLAGS = ["--max-length", "16", "--epochs", "2", "--mixed-precision", "no", "--evaluate.resamples", "100"]
FLAGS += ["--train.learning-rate", "3e-3", "--evaluate.parity-rows", "16"]
BRIEFLY = ["--evaluate.no-baselines", "--evaluate.no-plots"]


def tags(text: str) -> list[str]:
    return [tag for tag in ("good", "bad", "film", "plot") if tag in text]


def number(text: str) -> float:
    """Far from 0 and 1, so that a scale which is not folded shows."""
    return 1000.5 + 100 * ("good" in text) - 100 * ("bad" in text) + len(text)


def table(tmp_path: Path, task: str, count: int = 60) -> Path:
    texts = [f"{WORDS[i % len(WORDS)]} {'very' if i % 4 else 'not'} {i}" for i in range(count)]
    label: Any = [tags(text) if task == "multi-label" else number(text) for text in texts]
    return parquet_file(tmp_path / f"{task}.parquet", text=texts, label=label)


def command(name: str, *arguments: Any) -> None:
    main.COMMANDS[name].run([str(argument) for argument in arguments])


def document(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_texts(tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With plots, and a gate in a fresh process; the other methods and images are of `test_task_contract`."""
    data, model = table(tmp_path, task), tiny_text_checkpoint(tmp_path / "bert")
    run = tmp_path / "run"
    command("train", data, "--model", model, "--output", run, *FLAGS)
    result = document(run)
    problem = {"multi-label": "multi_label_classification", "regression": "regression"}[task]
    assert result["problem_type"] == problem and all(check["ok"] for check in result["parity"].values())
    assert f"task: {task}" in " ".join(result["data"]["notes"])
    assert {"micro_f1", "lrap"} <= set(result["metrics"]["validation"]) or "r2" in result["metrics"]["validation"]
    assert set(result["baselines"]) >= {"linear"}
    (further,) = result["baselines"]["linear"]["difference"]["further"]
    also = {"multi-label": "points of mean_average_precision, ", "regression": "of Spearman's correlation, "}[task]
    assert f"{also}{further['verdict']}." in (run / "README.md").read_text()
    explained = "of the variance of the labels" if task == "regression" else "of the entropy of the labels"
    assert explained in (run / "README.md").read_text()

    # Plain transformers answers as predictions.parquet, in the unit of the labels.
    predictions = pq.read_table(run / "predictions.parquet").to_pandas()
    rows = pq.read_table(data).to_pandas().iloc[predictions["row"]]
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    network = AutoModelForSequenceClassification.from_pretrained(run / "model").eval()
    with torch.inference_mode():
        batch = tokenizer(rows["text"].tolist(), truncation=True, padding=True, return_tensors="pt")
        logits = network(**batch).logits.numpy()
    if task == "regression":
        assert np.allclose(logits[:, 0], predictions["predicted"], rtol=1e-5, atol=1e-3)
        assert np.allclose(predictions["label"], rows["label"])
        answer = pipeline("text-classification", str(run / "model"))(rows["text"].iloc[0])[0]["score"]
        assert answer == pytest.approx(predictions["predicted"].iloc[0], rel=1e-5)
    else:
        columns = [f"p:{label}" for label in result["labels"]]
        assert np.allclose(1 / (1 + np.exp(-logits)), predictions[columns], atol=1e-5)
        assert [sorted(a) for a in predictions["label"]] == [sorted(a) for a in rows["label"]]
        thresholds = json.loads((run / "model/config.json").read_text())["thresholds"]
        expected = [{t for t in result["labels"] if p[f"p:{t}"] >= thresholds[t]} for _, p in predictions.iterrows()]
        assert [set(a) for a in predictions["predicted"]] == expected

    # The other doors.
    capsys.readouterr()
    command("evaluate", run, data, "--json")
    measured = json.loads(capsys.readouterr().out)["metrics"]
    assert set(measured) == set(result["metrics"]["validation"])
    command("predict", run, data, "--output", tmp_path / "p.jsonl")
    first = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0])
    assert isinstance(first["predicted"], float if task == "regression" else list)
    classifier = hf_finetune.Classifier.load(run)
    assert type(classifier.predict("a good film")) is type(first["predicted"])
    assert classifier.predict_proba(["a good film", "a bad film"]).shape == (2, len(result["labels"]))
    assert str(classifier.result).count("this model") == 1


@pytest.mark.usefixtures("gate_here")
def test_a_pooled_head_folds_its_scale(tmp_path: Path) -> None:
    """The head that no stock class has is saved beside its encoder, and answers in the unit of the target, too."""
    data, model, run = table(tmp_path, "regression"), tiny_text_checkpoint(tmp_path / "bert"), tmp_path / "run"
    command("train", data, "--model", model, "--output", run, "--model.pooling", "mean", *FLAGS, *BRIEFLY)
    result = document(run)
    assert result["standalone"] is False and all(check["ok"] for check in result["parity"].values())
    values = hf_finetune.Classifier.load(run).predict(["a good film", "a bad film"])
    assert all(500 < value < 1500 for value in values)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--objective.class-weights", "Balanced"],
            "objective.class_weights: .* regression: numbers have no classes to weigh",
        ),
        (["--batching.sampling", "balanced"], "batching.sampling: .* regression: numbers have no classes to balance"),
        (
            ["--objective.loss", "Focal"],
            "objective.loss: expected a loss for regression, such as SquaredError, got Focal",
        ),
        (["--evaluate.metric", "accuracy"], r"evaluate.metric: expected a metric of regression \(r2, "),
        (["--rows-per-class", "4"], "--rows-per-class 4: expected none with regression"),
        (["--task", "multi-label"], "column 'label' holds double, expected tags"),
        (["--label-separator", "::"], "--label-separator '::': expected one character"),
    ],
)
def test_what_a_task_does_not_have_is_refused(tmp_path: Path, flags: list[str], message: str) -> None:
    data, model = table(tmp_path, "regression"), tiny_text_checkpoint(tmp_path / "bert")
    with pytest.raises(InputError, match=message):
        command("train", data, "--model", model, "--output", tmp_path / "run", *FLAGS, *flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_one_column_a_tag_or_target(
    tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several label columns, by names at the shell and by a list in Python: the same columns for evaluate."""
    gate.run_here(monkeypatch.setattr)
    texts = [f"{WORDS[i % len(WORDS)]} {i}" for i in range(60)]
    columns: dict[str, list[Any]] = {
        "film": [int("film" in text) for text in texts],
        "plot": ["plot" in t for t in texts],
    }
    if task == "regression":
        columns = {"film": [number(t) for t in texts], "plot": [-0.01 * len(t) for t in texts]}
    data = parquet_file(tmp_path / "a.parquet", text=texts, **columns)
    model, run = tiny_text_checkpoint(tmp_path / "bert"), tmp_path / "run"
    command("train", data, "--model", model, "--output", run, *FLAGS, *BRIEFLY, "--label", "film", "plot")
    result = document(run)
    assert result["labels"] == ["film", "plot"] and result["data"]["columns"]["label"] == ["film", "plot"]
    assert all(check["ok"] for check in result["parity"].values())
    capsys.readouterr()
    command("evaluate", run, data)
    printed = capsys.readouterr().out
    predicted = hf_finetune.Classifier.load(run).predict(texts[:3])
    if task == "regression":
        per_target = result["per_target"]["validation"]
        assert result["metrics"]["validation"]["r2"]["value"] == pytest.approx(
            np.mean([per_target[name]["r2"]["value"] for name in ("film", "plot")])
        )
        assert "### Per target" in (run / "README.md").read_text() and "film" in printed
        assert predicted.shape == (3, 2) and (predicted[:, 0] > 500).all() and (abs(predicted[:, 1]) < 5).all()
        predictions = pq.read_table(run / "predictions.parquet").to_pandas()
        assert predictions["predicted:plot"].iloc[0] == predictions["predicted"].iloc[0][1]
    else:
        assert all(isinstance(tags, list) for tags in predicted) and "film" in printed
    assert hf_finetune.Classifier.load(run).evaluate(str(data), label=["film", "plot"]).rows == {"evaluation": 60}


def test_ordered_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stock class holds the levels."""
    gate.run_here(monkeypatch.setattr)
    levels = ("poor", "fair", "good")
    texts = [f"{WORDS[i % len(WORDS)]} {i}" for i in range(90)]
    rows = {"text": texts, "grade": [levels[1 + ("good" in text) - ("bad" in text)] for text in texts]}
    data, model = parquet_file(tmp_path / "a.parquet", **rows), tiny_text_checkpoint(tmp_path / "bert")
    run = tmp_path / "run"
    order = ["--label-order", ",".join(levels)]
    command("train", data, "--model", model, "--output", run, *FLAGS, *order, "--evaluate.no-plots")
    result = document(run)
    assert result["labels"] == list(levels) and result["label_task"] == "ordinal" and result["standalone"]
    assert all(check["ok"] for check in result["parity"].values())
    assert list(result["metrics"]["validation"])[:2] == ["quadratic_kappa", "mae"]
    assert {"median", "linear"} <= set(result["baselines"])
    assert result["baselines"]["linear"]["difference"]["metric"] == "quadratic_kappa"
    card = (run / "README.md").read_text()
    assert "### Residuals" in card and "Errors count levels" in card and "| `poor` |" in card
    predictions = pq.read_table(run / "predictions.parquet").to_pandas()
    probabilities = predictions[[f"p:{level}" for level in levels]].to_numpy()
    assert predictions["predicted"].tolist() == [levels[i] for i in probabilities.argmax(axis=1)]
    answer = pipeline("text-classification", str(run / "model"), top_k=None)([rows["text"][predictions["row"][0]]])[0]
    scores = {each["label"]: each["score"] for each in answer}
    assert [scores[level] for level in levels] == pytest.approx(probabilities[0], abs=1e-5)
    assert hf_finetune.Classifier.load(run).predict(["a good film", "a bad film"])[0] in levels


def test_similarity_of_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of pairs in any order: by a file, flags, stdin and tuples."""
    gate.run_here(monkeypatch.setattr)
    texts = [f"{WORDS[i % len(WORDS)]} {i}" for i in range(70)]
    pairs = {"sentence1": texts[:60], "sentence2": texts[10:]}
    scores = [len(set(a.split()) & set(b.split())) + 0.5 for a, b in zip(*pairs.values(), strict=True)]
    data, model = parquet_file(tmp_path / "a.parquet", **pairs, score=scores), tiny_text_checkpoint(tmp_path / "bert")
    run = tmp_path / "run"
    flags = [*FLAGS, "--data.augment", "[SwapPair]", "--evaluate.no-plots"]
    command("train", data, "--model", model, "--output", run, *flags)
    result = document(run)
    assert result["problem_type"] == "regression" and result["baselines"]["linear"]["name"] == "tfidf+overlap+ridge"
    card = (run / "README.md").read_text()
    assert 'classify({"text": "The first text.", "text_pair": "The second text."}' in card and "SwapPair()" in card
    first, second = texts[0], texts[10]
    expected = hf_finetune.Classifier.load(run).predict([(first, second)])[0]
    capsys.readouterr()
    command("predict", run, "--text", first, "--text-pair", second, "--json")
    assert json.loads(capsys.readouterr().out)["predictions"][0]["predicted"] == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(f"sentence1\tsentence2\n{first}\t{second}\n".encode()))
    )
    command("predict", run, "-", "--format", "tsv", "--json")
    assert json.loads(capsys.readouterr().out)["predictions"][0]["predicted"] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InputError, match="SwapPair expects pairs of texts"):
        flags = ["--data.augment", "[SwapPair]", "--output", tmp_path / "x"]
        command("train", table(tmp_path, "regression"), "--model", model, *FLAGS, *flags)


@pytest.mark.usefixtures("gate_here")
@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_techniques(tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    """R-Drop and Mixup; then a teacher whose features are compared, of unlabeled rows, too. Tags also have weights and
    draws of their own, and both are evaluated by views of the texts."""
    data, model, big = table(tmp_path, task), tiny_text_checkpoint(tmp_path / "bert"), tmp_path / "big"
    balanced = ["--objective.class-weights", "Balanced", "--batching.sampling", "square_root"]
    own = [data, "--model", model, *FLAGS, *BRIEFLY, *(balanced if task == "multi-label" else [])]
    command("train", *own, "--output", big, "--objective.r-drop", 1, "--objective.mix", "[Mixup]")
    more = parquet_file(tmp_path / "more.parquet", text=[f"a good film of {i}" for i in range(8)])
    kinds = "[SoftTargets, MatchLogits, {type: Embedding}, {type: HiddenStates}]"
    student = tmp_path / "student"
    command("train", *own, "--teacher", big, "--objective.kinds", kinds, "--unlabeled", more, "--output", student)
    result = document(student)
    assert result["rows"]["unlabelled"] == 8 and result["teacher"]["difference"]["metric"] in ("micro_f1", "r2")
    weights = result["data"]["class_weights"]
    assert (weights is None) == (task == "regression")
    capsys.readouterr()
    command("evaluate", student, data, "--views", 2, "--augment", "[DeleteWords]", "--json")
    views = json.loads(capsys.readouterr().out)["views"]
    assert views["number"] == 2 and views["difference"]["metric"] == result["teacher"]["difference"]["metric"]
