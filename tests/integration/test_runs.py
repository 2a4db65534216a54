"""Whole runs through the command line, in real processes, on tiny checkpoints: what is written, and what is refused."""

import csv
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.forks import COMMAND, COMMAND_WITHOUT_GATE
from helpers.forks import run as in_a_process
from helpers.small_runs import image_folder, text_rows
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from safetensors.torch import load_file

from hf_finetune.utils.folder_lock import owned

# The command line in a process that gets a signal in the middle of a step, at the same one however busy the machine is.
SIGNALLED = """
import signal, sys
from helpers import gate
from hf_finetune.cli.main import main_command
from hf_finetune.training.callbacks import LogLines

step, number = int(sys.argv[1]), int(sys.argv[2])

def on_step_end(self, args, state, control, **_):
    if state.global_step == step:
        signal.raise_signal(number)

LogLines.on_step_end = on_step_end
gate.run_here()
main_command(sys.argv[3:])
"""
SHORT = [
    "--max-length",
    "32",
    "--epochs",
    "2",
    "--train.logging-steps",
    "1",
    "--train.per-device-train-batch-size",
    "8",
]
BRIEFLY = ["--evaluate.no-plots", "--evaluate.no-baselines", "--evaluate.resamples", "100"]


def run(*arguments: str | Path, status: int = 0, code: str = COMMAND_WITHOUT_GATE) -> subprocess.CompletedProcess:
    """A command to its end, with the exit status it must have."""
    answer = in_a_process(code, *arguments)
    assert answer.returncode == status, answer.stderr[-3000:]
    return answer


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.csv (60 rows) and test.csv (30), labels as words."""
    folder = tmp_path_factory.mktemp("texts")
    for split, seed, count in (("train", 0, 60), ("test", 1, 30)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["text", "label"])
            lines.writerows((row["text"], ("bad", "good")[row["label"]]) for row in text_rows(count, seed))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sub-folder a class."""
    return image_folder(tmp_path_factory.mktemp("pictures"), 40)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_text_checkpoint(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_image_checkpoint(tmp_path_factory.mktemp("vit"), "vit")


def read_result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def full_run(texts: Path, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "full"
    answer = run("train", texts, "--model", bert, "--output", folder, *SHORT, code=COMMAND)
    assert "this model" in answer.stdout and "majority" in answer.stdout and str(folder / "model") in answer.stdout
    return folder


def test_folder_of_a_run(full_run: Path, texts: Path) -> None:
    names = {p.name for p in full_run.iterdir()}
    files = {"result.json", "predictions.parquet", "README.md", "recipe.json", "log.jsonl", "trained_on.npy"}
    assert names == {"model", "plots", *files}
    result = read_result(full_run)
    assert result["schema"] == 1 and result["task"] == "text-classification" and result["method"] == "full"
    assert result["labels"] == ["bad", "good"] and result["rows"] == {"train": 54, "validation": 6, "test": 30}
    for metrics in result["metrics"].values():
        for found in metrics.values():
            assert found["low"] <= found["value"] <= found["high"] and found["n"] in (6, 30)
    assert result["parity"]["reload"]["ok"] and result["parity"]["reload"]["max_abs_difference"] < 1e-4
    assert result["parity"]["pipeline"]["ok"]
    assert set(result["baselines"]) == {"majority", "linear"}
    assert result["baselines"]["majority"]["accuracy"]["n"] == 30
    for rate in ("train_rows_per_s", "train_tokens_per_s", "predict_rows_per_s"):
        assert result["throughput"][rate] > 0
    assert result["time"]["total_s"] > result["time"]["train_s"] > 0
    assert not [p for p in full_run.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_predictions_of_a_run_are_those_of_its_model(full_run: Path, texts: Path, tmp_path: Path) -> None:
    """predictions.parquet, `predict` in each format, and the metrics of `evaluate` agree."""
    table = pq.read_table(full_run / "predictions.parquet").to_pandas()
    assert list(table.columns) == ["row", "split", "label", "predicted", "p:bad", "p:good"]
    test = table[table["split"] == "test"]
    assert test["row"].tolist() == list(range(30))
    for suffix in ("csv", "jsonl", "parquet"):
        run("predict", full_run, texts / "test.csv", "--output", tmp_path / f"out.{suffix}")
    with (tmp_path / "out.csv").open() as file:
        from_csv = list(csv.DictReader(file))
    from_jsonl = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    from_parquet = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [r["predicted"] for r in from_csv] == [r["predicted"] for r in from_jsonl] == test["predicted"].tolist()
    assert [r["p:good"] for r in from_parquet] == pytest.approx(test["p:good"].tolist(), abs=1e-5)
    answer = json.loads(run("evaluate", full_run / "model", texts / "test.csv", "--json").stdout)
    assert answer["rows"] == 30
    accuracy = float((test["label"] == test["predicted"]).mean())
    assert answer["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert read_result(full_run)["metrics"]["test"]["accuracy"]["value"] == pytest.approx(accuracy)


def test_plain_transformers_loads_it(full_run: Path) -> None:
    from transformers import pipeline

    found = pipeline("text-classification", str(full_run / "model"))("a good film")
    assert found[0]["label"] in ("bad", "good")


def test_card_renders_again_byte_for_byte(full_run: Path) -> None:
    before = (full_run / "README.md").read_bytes()
    assert run("card", full_run).stdout.encode() == before == (full_run / "README.md").read_bytes()
    assert str(full_run) not in before.decode()


@pytest.mark.parametrize("method", ["lora", "head"])
def test_methods_on_texts(texts: Path, bert: Path, tmp_path: Path, method: str) -> None:
    run("train", texts, "--model", bert, "--output", tmp_path / "run", "--method", method, *SHORT, *BRIEFLY)
    result = read_result(tmp_path / "run")
    assert result["method"] == method
    assert all(check["ok"] for check in result["parity"].values())
    assert ("adapter" in result["parity"]) == (method == "lora")
    assert result["parameters"]["trained"] < result["parameters"]["total"] / 2
    # A head on cached features reads no tokens.
    assert (result["throughput"]["train_tokens_per_s"] is None) == (method == "head")
    if method == "head":
        # The body is the checkpoint's to the bit.
        before, after = (
            load_file(bert / "model.safetensors"),
            load_file(tmp_path / "run" / "model" / "model.safetensors"),
        )
        assert all(torch.equal(w, after[f"bert.{n}"]) for n, w in before.items() if n.startswith("encoder."))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_methods_on_images(pictures: Path, vit: Path, tmp_path: Path, method: str) -> None:
    arguments = ["--model", vit, "--output", tmp_path / "run", "--method", method, *SHORT[2:], *BRIEFLY]
    run("train", pictures, *arguments)
    result = read_result(tmp_path / "run")
    assert result["task"] == "image-classification" and result["labels"] == ["bright", "dark"]
    assert set(result["metrics"]) == {"validation"}
    assert all(check["ok"] for check in result["parity"].values())
    assert "nothing is claimed" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (["nowhere.csv"], "nowhere.csv"),
        (["--model", "nowhere/at/all"], "nowhere/at/all"),
        (["--label", "lable"], "lable"),
        (["--train.learning-rate", "-1"], "--train.learning-rate -1: expected a number above 0"),
        (["--model.frozen-layers", "9"], "model.frozen_layers: 9"),
        (["--max-length", "4000"], "data.max_length: 4000"),
        (["--mixed-precision", "fp16"], "precision.mixed_precision: fp16 needs a GPU"),
    ],
)
def test_bad_input_writes_nothing(texts: Path, bert: Path, tmp_path: Path, change: list[str], first: str) -> None:
    data = [tmp_path / change.pop(0)] if change[0].endswith(".csv") else [texts]
    model = [] if "--model" in change else ["--model", bert]
    answer = run("train", *data, *model, "--max-length", "32", *change, "--output", tmp_path / "run", status=2)
    assert first in answer.stderr.splitlines()[0], answer.stderr
    assert "Traceback" not in answer.stderr and answer.stdout == ""
    assert not (tmp_path / "run").exists()


def test_diverging_run_saves_no_model(texts: Path, bert: Path, tmp_path: Path) -> None:
    flags = [
        "--train.learning-rate",
        "1e30",
        "--train.max-grad-norm",
        "1e9",
        "--train.warmup-steps",
        "0",
        "--epochs",
        "30",
    ]
    answer = run("train", texts, "--model", bert, "--output", tmp_path / "run", *SHORT, *flags, status=1)
    assert "lower train.learning_rate" in answer.stderr and "Traceback" not in answer.stderr
    assert not (tmp_path / "run" / "model").exists() and not (tmp_path / "run" / "result.json").exists()


def test_occupied_folder_is_refused(full_run: Path, texts: Path, bert: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in full_run.rglob("*")}
    answer = run("train", texts, "--model", bert, "--output", full_run, status=2)
    assert "not empty" in answer.stderr.splitlines()[0]
    answer = run("train", texts, "--model", bert, "--output", full_run, "--resume", status=2)
    assert "finished" in answer.stderr.splitlines()[0]
    assert before == {p: p.stat().st_mtime_ns for p in full_run.rglob("*")}


def test_a_folder_in_which_a_run_writes_is_left_alone(full_run: Path, texts: Path, bert: Path) -> None:
    with owned(full_run):
        before = {p: p.stat().st_mtime_ns for p in (full_run, *full_run.rglob("*"))}
        for command in (
            ["card", full_run],
            ["push", full_run, "me/reviews"],
            ["train", texts, "--model", bert, "--output", full_run],
            ["train", texts, "--model", bert, "--output", full_run, "--resume"],
        ):
            first = run(*command, status=2).stderr.splitlines()[0]
            assert first.startswith(
                f"{full_run}: process {os.getpid()} on {socket.gethostname()} has been writing there"
            )
        assert before == {p: p.stat().st_mtime_ns for p in (full_run, *full_run.rglob("*"))}


def test_stopped_and_resumed_run_ends_with_the_same_bits(texts: Path, bert: Path, tmp_path: Path) -> None:
    # 27 steps an epoch; stopped in the third of four.
    flags = [
        "--model",
        bert,
        "--max-length",
        "32",
        "--epochs",
        "4",
        "--train.per-device-train-batch-size",
        "2",
        "--train.logging-steps",
        "1",
        *BRIEFLY,
    ]
    run("train", texts, *flags, "--output", tmp_path / "straight")
    signalled = [str(70), str(int(signal.SIGTERM)), "train", texts, *flags, "--output", tmp_path / "stopped"]
    stopped = run(*signalled, status=3, code=SIGNALLED)
    assert "stopped by SIGTERM after saving step 70" in stopped.stderr
    assert not (tmp_path / "stopped" / "result.json").exists()

    changed = run("train", texts, *flags, "--seed", "1", "--output", tmp_path / "stopped", "--resume", status=2)
    assert changed.stderr.startswith("train.seed: the run in")
    run("train", texts, *flags, "--output", tmp_path / "stopped", "--resume")
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("straight", "stopped")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])
    logs = [
        [json.loads(x) for x in (tmp_path / n / "log.jsonl").read_text().splitlines()] for n in ("straight", "stopped")
    ]
    losses = [[(x["step"], x["loss"]) for x in lines if "loss" in x] for lines in logs]
    assert losses[0] == losses[1]


def test_two_processes_are_two_and_end_like_one(texts: Path, bert: Path, tmp_path: Path) -> None:
    flags = [
        "--model",
        bert,
        "--max-length",
        "32",
        "--model.dropout",
        "0",
        "--mixed-precision",
        "no",
        "--batching.rows-per-step",
        "8",
        "--epochs",
        "1",
        *BRIEFLY,
    ]
    run("train", texts, *flags, "--output", tmp_path / "one")
    run("train", texts, *flags, "--output", tmp_path / "two", "--num-processes", "2")
    one, two = read_result(tmp_path / "one"), read_result(tmp_path / "two")
    assert (one["environment"]["processes"], two["environment"]["processes"]) == (1, 2)
    assert one["steps"] == two["steps"]
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two")]
    assert max(float((weights[0][n] - weights[1][n]).abs().max()) for n in weights[0]) < 1e-3
    tables = [pq.read_table(tmp_path / n / "predictions.parquet").to_pandas() for n in ("one", "two")]
    assert np.allclose(tables[0]["p:good"], tables[1]["p:good"], atol=1e-3)


def test_bad_input_in_two_processes_is_said_once(bert: Path, tmp_path: Path) -> None:
    flags = [
        "--model",
        bert,
        "--max-length",
        "32",
        "--output",
        tmp_path / "run",
        "--num-processes",
        "2",
        "--data.test-fraction",
        "2",
    ]
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\n")
    answer = run("train", tmp_path / "rows.csv", *flags, status=2)
    # With triton installed, Python 3.13 ends each process with a report of triton's leaks, in no particular order.
    lines = [
        line for line in answer.stderr.splitlines() if not line.startswith(("nanobind:", " - ", "See https://nano"))
    ]
    assert lines[0].startswith("--data.test-fraction 2: expected")
    assert answer.stderr.count("data.test-fraction") == 1


def test_plan_trains_nothing(texts: Path, bert: Path, tmp_path: Path) -> None:
    flags = [texts, "--model", bert, "--max-length", "32", "--epochs", "3"]
    answer = run("plan", "train", *flags, "--output", tmp_path / "run", "--json")
    made = json.loads(answer.stdout)
    assert made["rows"] == {"train": 54, "validation": 6, "test": 30} and made["steps"] == 6
    estimate = made["estimate"]
    assert all(type(value) is float for value in estimate.values()), estimate
    assert 0 <= estimate["train_loop_s"] < estimate["total_s"] and estimate["peak_rss_mb"] > 100
    assert not (tmp_path / "run").exists()
    assert "steps         6 of 27 rows" in run("plan", *flags).stdout
