"""What every task keeps, by every method, for texts and images: it is taught, saved, loaded again by plain transformers,
resumed to the same bits, pushed and pulled. `helpers.task_cases` has the tasks."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import gate
from helpers.hub_server import HubServer
from helpers.small_runs import stop_after
from helpers.task_cases import CASES, TaskCase
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint

from hf_finetune import Hub
from hf_finetune.cli import main
from hf_finetune.errors import StoppedBySignal
from hf_finetune.hub.push import push
from hf_finetune.pipeline import push as pipeline_push

FLAGS = ["--epochs", "2", "--mixed-precision", "no", "--evaluate.resamples", "100", "--train.learning-rate", "3e-3"]
FLAGS += ["--evaluate.parity-rows", "8", "--evaluate.no-baselines", "--evaluate.no-plots"]
FLAGS += ["--train.per-device-train-batch-size", "16"]
CELLS = [(case, kind, method) for case in CASES for kind in case.kinds for method in case.methods]


def train(*arguments: Any) -> None:
    main.COMMANDS["train"].run([str(argument) for argument in arguments])


def document(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that returns the flags of a run with a teacher: data, checkpoint, and a run of method full."""
    folder, flags = tmp_path_factory.mktemp("teachers"), {}
    checkpoints = {"text": tiny_text_checkpoint(folder / "bert"), "image": tiny_image_checkpoint(folder / "vit")}

    def flags_of(case: TaskCase, kind: str) -> list[Any]:
        if (case, kind) not in flags:
            length = ["--max-length", "16"] if kind == "text" else []
            plain = [case.write(folder, kind), "--model", checkpoints[kind], *FLAGS, *length, *case.flags]
            teacher = folder / f"{case.task}-{kind}"
            train(*plain, "--output", teacher)
            flags[case, kind] = [*plain, "--teacher", teacher]
        return flags[case, kind]

    with pytest.MonkeyPatch.context() as patch:
        gate.run_here(patch.setattr)
        yield flags_of


@pytest.mark.parametrize(("case", "kind", "method"), CELLS, ids=lambda each: getattr(each, "task", each))
def test_contract(
    case: TaskCase,
    kind: str,
    method: str,
    taught: Any,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = [*taught(case, kind), "--method", method]
    train(*arguments, "--output", tmp_path / "straight")
    result = document(tmp_path / "straight")
    assert result["method"] == method and all(check["ok"] for check in result["parity"].values())
    assert {"reload"} <= result["parity"].keys() and result["standalone"] is True
    assert -1 <= result["teacher"]["agreement"] <= 1 and result["teacher"]["metrics"]["validation"]

    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StoppedBySignal):
            train(*arguments, "--output", tmp_path / "stopped")
    train(*arguments, "--output", tmp_path / "stopped", "--resume")
    again = document(tmp_path / "stopped")
    assert again["metrics"] == result["metrics"] and again["artifacts"] == result["artifacts"]

    hub.connect(monkeypatch, tmp_path / "home")
    monkeypatch.setattr(pipeline_push, "push", lambda *args, **fields: push(*args, endpoint=hub.endpoint, **fields))
    # It pulls, and compares bytes and logits.
    pipeline_push.push_run(tmp_path / "straight", Hub(repo_id=f"tester/{case.task}-{kind}-{method}"))
