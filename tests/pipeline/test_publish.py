"""What an adapter that is pushed by itself says of its checkpoint is seen to hold; and a refusal when all else is
done."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.small_runs import small_recipe
from helpers.tiny import tiny_text_checkpoint
from peft import PromptTuningConfig

from hf_finetune import Hub, Launch
from hf_finetune.errors import GateError, InputError, PushError
from hf_finetune.hub.contents import collect
from hf_finetune.pipeline import publish, run


@pytest.mark.usefixtures("gate_here")
def test_the_checkpoint_is_the_one_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt whose checkpoint its user calls me/tiny: pulled, it is put on what me/tiny is, and on nothing else."""
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

    monkeypatch.setattr(publish, "push", pulled_at_once)
    # Where transformers finds a folder of that name, it does not ask the Hub.
    monkeypatch.chdir(tmp_path)
    shutil.copytree(named.checkpoint, "me/tiny")
    publish.publish(folder, Hub(repo_id="me/prompt"))
    config = json.loads((tmp_path / "pulled" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/tiny"
    shutil.rmtree("me/tiny")
    tiny_text_checkpoint("me/tiny", seed=9)
    with pytest.raises(GateError, match="pulled adapter does not reproduce the trained model"):
        publish.publish(folder, Hub(repo_id="me/prompt"))

    # After another run, whose base model is another one, it must be named.
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
def test_a_push_that_is_refused_after_the_training_leaves_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not bad input, before which nothing is written."""

    def refused(*_: Any, **__: Any) -> None:
        raise InputError("me/tiny: this token may not write there; take one of role write, or another name")

    monkeypatch.setattr(run, "check_target", lambda *_: "token")
    monkeypatch.setattr(publish, "publish", refused)
    recipe = dataclasses.replace(small_recipe(tmp_path), hub=Hub(repo_id="me/tiny"))
    folder = tmp_path / "run"
    with pytest.raises(
        PushError, match=rf"may not write there.*; the run is finished, `hf-finetune push {folder} me/tiny`"
    ):
        run.run(recipe, Launch(str(folder)))
    assert (folder / "result.json").is_file() and (folder / "model" / "model.safetensors").is_file()
