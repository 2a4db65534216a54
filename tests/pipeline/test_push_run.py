"""A pushed adapter is verified on the checkpoint that it names; a push that is refused at the end of a run."""

import dataclasses
import errno
import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from helpers.small_runs import small_recipe
from helpers.tiny import tiny_text_checkpoint
from peft import PromptTuningConfig

from hf_finetune import Hub, Launch
from hf_finetune.errors import GateError, InputError, PushError, RunError, StoppedBySignal
from hf_finetune.hub.contents import collect
from hf_finetune.models.exported_network import ExportedNetwork
from hf_finetune.pipeline import push, run
from hf_finetune.tasks.trained_model import TrainedModel


@pytest.mark.usefixtures("gate_here")
def test_an_adapter_is_verified_on_the_named_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With model.base_model me/tiny, the pulled prompt is loaded on me/tiny."""
    recipe = small_recipe(tmp_path)
    named = dataclasses.replace(recipe.model, base_model="me/tiny")
    prompt = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    folder = tmp_path / "run"
    run.run(dataclasses.replace(recipe, model=named, adapter=prompt), Launch(str(folder)))

    def pulled_at_once(sent: Path, target: Hub, *, check: Any, **_: Any) -> None:
        for path, file in collect(sent, target.repo_id).items():
            place = tmp_path / "pulled" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.content if isinstance(file.content, bytes) else file.content.read_bytes())
        check(tmp_path / "pulled")

    monkeypatch.setattr(push, "push", pulled_at_once)
    # transformers prefers a folder of that name to the Hub.
    monkeypatch.chdir(tmp_path)
    shutil.copytree(named.checkpoint, "me/tiny")
    push.push_run(folder, Hub(repo_id="me/prompt"))
    config = json.loads((tmp_path / "pulled" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/tiny"
    shutil.rmtree("me/tiny")
    tiny_text_checkpoint("me/tiny", seed=9)
    with pytest.raises(GateError, match="pulled adapter does not reproduce the trained model"):
        push.push_run(folder, Hub(repo_id="me/prompt"))

    # The base model of an earlier run's model must be named.
    result, plan = (json.loads((folder / name).read_text()) for name in ("result.json", "recipe.json"))
    (folder / "result.json").write_text(
        json.dumps(result | {"started_from": {"name": "first", "labels": [], "method": "full"}})
    )
    collect(folder, "me/prompt")
    plan["recipe"]["model"]["base_model"] = None
    (folder / "recipe.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match=r"run: adapter/ .* the run 'first'"):
        collect(folder, "me/prompt")


@pytest.mark.usefixtures("gate_here")
def test_a_push_refused_at_the_end_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a PushError: an InputError would mean that nothing was written."""

    def refused(*_: Any, **__: Any) -> None:
        raise InputError("me/tiny: this token may not write there; take one of role write, or another name")

    monkeypatch.setattr(run, "check_target", lambda *_: "token")
    monkeypatch.setattr(push, "push_run", refused)
    recipe = dataclasses.replace(small_recipe(tmp_path), hub=Hub(repo_id="me/tiny"))
    folder = tmp_path / "run"
    with pytest.raises(
        PushError, match=rf"may not write there.*; the run is finished, `hf-finetune push {folder} me/tiny`"
    ):
        run.run(recipe, Launch(str(folder)))
    assert (folder / "result.json").is_file() and (folder / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("error", "expected"),
    [(KeyboardInterrupt(), StoppedBySignal), (OSError(errno.ENOSPC, "No space left on device"), PushError)],
)
def test_a_push_that_is_stopped_names_the_command_that_repeats_it(
    error: BaseException, expected: type[RunError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--resume would refuse the run, which is finished."""

    def stopped(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(push, "push_run", stopped)
    with pytest.raises(expected, match="the run is finished, `hf-finetune push folder me/tiny` sends it"):
        push.push_if_asked(Path("folder"), Hub(repo_id="me/tiny"))


@pytest.mark.parametrize(
    ("kind", "is_graph", "extras"),
    [
        ("text", False, ()),
        ("text", True, ("onnx",)),
        ("image", False, ("vision",)),
        ("image", True, ("onnx", "vision")),
    ],
)
def test_a_space_installs_what_its_model_needs(
    kind: str, is_graph: bool, extras: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Mock(spec=ExportedNetwork) if is_graph else Mock()
    finished = Mock(spec=TrainedModel, kind=kind, pairs=False, model=model, task=Mock(activation="softmax"))
    shown = Mock()
    monkeypatch.setattr(push, "push_run", Mock())
    monkeypatch.setattr(push, "load_finished", lambda name: finished)
    monkeypatch.setattr(push, "push_space", shown)
    push.push_with_space(Path("run"), Hub(repo_id="me/run", license="mit"))
    options = shown.call_args.args[1]
    assert (options.inputs, options.has_scores, options.extras, options.license) == (kind, True, extras, "mit")
