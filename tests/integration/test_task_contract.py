"""What every task keeps, by every method, for texts and images: it is taught, saved, loaded again by plain transformers,
resumed to the same bits, pushed and pulled; and what every other command and the Python API make of it.
`helpers.task_cases` has the tasks."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers import gate
from helpers.hub_server import HubServer
from helpers.small_runs import stop_after
from helpers.task_cases import CASES, TaskCase
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint

import hf_finetune
from hf_finetune import Hub
from hf_finetune.cli import main
from hf_finetune.errors import StoppedBySignal
from hf_finetune.hub.push import push
from hf_finetune.pipeline import push as pipeline_push
from hf_finetune.utils.artifacts import exported_graph

FLAGS = ["--epochs", "2", "--mixed-precision", "no", "--evaluate.resamples", "100", "--train.learning-rate", "3e-3"]
FLAGS += ["--evaluate.parity-rows", "8", "--evaluate.no-baselines", "--evaluate.no-plots"]
FLAGS += ["--train.per-device-train-batch-size", "16"]
KINDS = [(case, kind) for case in CASES for kind in case.kinds]
CELLS = [(case, kind, method) for case, kind in KINDS for method in case.methods]


def command(name: str, *arguments: Any) -> None:
    main.COMMANDS[name].run([str(argument) for argument in arguments])


def document(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that returns a run of method full, and its flags: data, checkpoint and further ones."""
    folder, runs = tmp_path_factory.mktemp("trained"), {}
    checkpoints = {"text": tiny_text_checkpoint(folder / "bert"), "image": tiny_image_checkpoint(folder / "vit")}

    def run_of(case: TaskCase, kind: str) -> tuple[Path, list[Any]]:
        if (case, kind) not in runs:
            length = ["--max-length", "16"] if kind == "text" else []
            flags = [
                case.write(folder, kind),
                "--model",
                checkpoints[kind],
                *FLAGS,
                *length,
                *case.data_flags,
                *case.flags,
            ]
            runs[case, kind] = folder / f"{case.name}-{kind}", flags
            command("train", *flags, "--output", runs[case, kind][0])
        return runs[case, kind]

    with pytest.MonkeyPatch.context() as patch:
        gate.run_here(patch.setattr)
        yield run_of


@pytest.mark.parametrize(("case", "kind", "method"), CELLS, ids=lambda each: getattr(each, "name", each))
def test_contract(
    case: TaskCase,
    kind: str,
    method: str,
    trained: Any,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher, flags = trained(case, kind)
    arguments = [*flags, "--teacher", teacher, "--method", method]
    command("train", *arguments, "--output", tmp_path / "straight")
    result = document(tmp_path / "straight")
    assert result["method"] == method and all(check["ok"] for check in result["parity"].values())
    assert {"reload"} <= result["parity"].keys() and result["standalone"] is case.standalone
    assert -1 <= result["teacher"]["agreement"] <= 1 and result["teacher"]["metrics"]["validation"]

    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StoppedBySignal):
            command("train", *arguments, "--output", tmp_path / "stopped")
    command("train", *arguments, "--output", tmp_path / "stopped", "--resume")
    again = document(tmp_path / "stopped")
    assert again["metrics"] == result["metrics"] and again["artifacts"] == result["artifacts"]

    hub.connect(monkeypatch, tmp_path / "home")
    monkeypatch.setattr(pipeline_push, "push", lambda *args, **fields: push(*args, endpoint=hub.endpoint, **fields))
    # It pulls, and compares bytes and logits.
    pipeline_push.push_run(tmp_path / "straight", Hub(repo_id=f"tester/{case.name}-{kind}-{method}"))


@pytest.mark.parametrize(("case", "kind"), KINDS, ids=lambda each: getattr(each, "name", each))
def test_every_door(
    case: TaskCase, kind: str, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, flags = trained(case, kind)
    data, result = flags[0], document(run)
    capsys.readouterr()

    def printed(name: str, *arguments: Any) -> dict[str, Any]:
        command(name, *arguments, "--json")
        return json.loads(capsys.readouterr().out)

    planned = printed("plan", *flags)
    assert planned["labels"] == len(result["labels"]) and planned["rows"] == {**result["rows"], "test": 0}
    assert printed("doctor", data, *case.data_flags)["splits"]["train"]["rows"] == 40
    measured = printed("evaluate", run, data)
    assert measured["metrics"].keys() == result["metrics"]["validation"].keys() and measured["rows"] == 40
    classifier = hf_finetune.Classifier.load(run)
    again = classifier.evaluate(str(data)).document["metrics"]["evaluation"]
    assert again == measured["metrics"]

    # The file of every format and Python hold the predictions of the run.
    expected = pq.read_table(run / "predictions.parquet").to_pandas()
    for suffix in (".jsonl", ".csv", ".parquet"):
        command("predict", run, data, "--output", tmp_path / f"p{suffix}")
    tables = [
        pd.read_json(tmp_path / "p.jsonl", lines=True),
        pd.read_csv(tmp_path / "p.csv"),
        pq.read_table(tmp_path / "p.parquet").to_pandas(),
    ]
    command("export", run, "--data", data, "--no-latency")
    command("predict", run, data, "--runtime", "onnx", "--output", tmp_path / "onnx.parquet")
    tables.append(pq.read_table(tmp_path / "onnx.parquet").to_pandas())
    hf_finetune.Classifier.load(run / "onnx").save(tmp_path / "saved-export")
    assert exported_graph(tmp_path / "saved-export") is not None, "no copy of the run's own model"
    columns = {*expected.columns} - {"split", "label"}
    assert all(columns <= {*each.columns} and len(each) == 40 for each in tables)
    of_python = classifier.predict(pd.read_parquet(data) if kind == "text" else data)
    everywhere = [of_python, *(each["predicted"] for each in tables)]
    for row, predicted in zip(expected["row"], expected["predicted"], strict=True):
        for each in everywhere:
            if isinstance(predicted, str):
                assert each[row] == predicted
            elif isinstance(predicted, float):
                assert each[row] == pytest.approx(predicted, rel=1e-5)
            else:
                assert list(json.loads(each[row]) if isinstance(each[row], str) else each[row]) == list(predicted)
