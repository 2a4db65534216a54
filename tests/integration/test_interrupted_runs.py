"""Runs in this process that are interrupted or die, and what they resume with."""

import dataclasses
import errno
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers.small_runs import change_tensor, small_recipe, stop_after
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import TrainerState

from hf_finetune import Launch, Model, Precision, Recipe
from hf_finetune.errors import InputError, StoppedBySignal, TrainingError
from hf_finetune.pipeline import choose_kernels, document, parity, run
from hf_finetune.pipeline.add_adapter import with_adapter
from hf_finetune.pipeline.parity import Check
from hf_finetune.pipeline.run import prepare
from hf_finetune.training.callbacks import LogLines
from hf_finetune.training.precision import Kernels
from hf_finetune.utils import console


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("input"))


def _refuses_changed_files(checkpoint: Path, resume: Callable[[], object]) -> None:
    """Other dropout, another activation and swapped token ids: each trained other weights without a word."""
    for name, old, new in (
        ("config.json", '"hidden_act": "gelu"', '"hidden_act": "relu"'),
        ("config.json", '"hidden_dropout_prob": 0.1', '"hidden_dropout_prob": 0.3'),
        ("tokenizer.json", '"a": 5,', '"a": 6,'),
        ("tokenizer_config.json", "{", '{"do_lower_case": false,'),
    ):
        whole = (checkpoint / name).read_text()
        assert old in whole, (name, old)
        (checkpoint / name).write_text(whole.replace(old, new, 1))
        with pytest.raises(InputError, match=f"{name} of the checkpoint has changed since the run in .* began"):
            resume()
        (checkpoint / name).write_text(whole)


@pytest.mark.usefixtures("gate_here")
def test_a_run_that_dies_before_its_result_can_be_resumed(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """result.json is written last, so its presence marks a complete run. The model of a run can be trained further."""
    write = document.write_json

    def die(path: Path, value) -> None:
        if path.name == "result.json":
            raise KeyboardInterrupt
        write(path, value)

    launch = Launch(output=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(document, "write_json", die)
        patch.setattr(parity, "checking", lambda *_, **__: nullcontext(lambda: {"reload": Check(ok=True)}))
        with pytest.raises(StoppedBySignal, match="after training; --resume continues"):
            run.run(recipe, launch)
    before = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert (tmp_path / "run" / "README.md").exists() and not (tmp_path / "run" / "result.json").exists()
    checkpoint = Path(recipe.model.checkpoint) / "model.safetensors"
    whole = checkpoint.read_bytes()
    change_tensor(checkpoint, "pooler.dense.bias")
    with pytest.raises(InputError, match="weights of the checkpoint: the run in"):
        run.run(recipe, dataclasses.replace(launch, resume=True))
    checkpoint.write_bytes(whole)
    _refuses_changed_files(checkpoint.parent, lambda: run.run(recipe, dataclasses.replace(launch, resume=True)))
    result = run.run(recipe, dataclasses.replace(launch, resume=True))
    assert result["parity"]["reload"]["ok"] and result["steps"] == 7
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(before[n], after[n]) for n in before)

    further = dataclasses.replace(recipe, model=Model(checkpoint=str(tmp_path / "run"), frozen_layers=2), method="lora")
    model = prepare(further).model
    adapted = with_adapter(model.network, prepare(further).context, model.fresh)
    assert model.fresh == ()
    assert torch.equal(model.network.classifier.original_module.weight, after["classifier.weight"])
    assert adapted.peft_config["default"].base_model_name_or_path == str(tmp_path / "run" / "model")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 135104 vs 134992"),
    ],
)
def test_a_full_disk_is_an_error_of_one_line(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(run, "fit", fail)
    with pytest.raises(TrainingError, match=r"run: cannot be written \(.+\); make room") as caught:
        run.run(recipe, Launch(output=str(tmp_path / "run")))
    assert "\n" not in str(caught.value)


def test_an_interruption_before_training_leaves_nothing(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "fit_head", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run.run(recipe, Launch(output=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("gate_here")
def test_an_interruption_after_training_can_be_resumed(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`resume` starts a new run in an empty folder; a signal after training leaves the checkpoint of the last step."""

    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(run, "save", interrupted)
    with pytest.raises(StoppedBySignal, match="after training; --resume"):
        run.run(recipe, Launch(output=str(tmp_path), resume=True))
    assert (tmp_path / "recipe.json").exists() and len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_no_bar_stays_when_training_is_stopped(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "is_terminal", lambda: True)
    stop_after(monkeypatch, 3)
    with pytest.raises(StoppedBySignal, match="SIGTERM after saving step"):
        run.run(recipe, Launch(output=str(tmp_path / "run")))
    assert capsys.readouterr().err and not console._terminal.is_live


@pytest.mark.usefixtures("gate_here")
def test_a_resumed_run_reuses_its_kernels(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read from recipe.json instead of measured again, and the weights are those of an uninterrupted run."""
    recipe = dataclasses.replace(
        recipe, precision=Precision(), train=dataclasses.replace(recipe.train, logging_steps=1)
    )
    settings = torch.get_num_threads(), torch.get_float32_matmul_precision()
    chosen = Kernels(mixed_precision="no", float32_matmul="medium", attention="sdpa", threads=1)
    seen = []

    def stopped(_: object, args: object, state: TrainerState, control: object, **given: object) -> None:
        seen.append((torch.get_num_threads(), torch.get_float32_matmul_precision(), args.bf16))
        seen.append(given["model"].config._attn_implementation)
        if state.global_step == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(
            choose_kernels.probe, "choose", lambda *_, **__: choose_kernels.probe.KernelChoice(chosen, ({},), "probe")
        )
        straight = run.run(recipe, Launch(output=str(tmp_path / "straight")))
        patch.setattr(LogLines, "on_step_end", stopped)
        with pytest.raises(StoppedBySignal):
            run.run(recipe, Launch(output=str(tmp_path / "stopped")))
    assert set(seen) == {(1, "medium", False), "sdpa"}
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == settings
    monkeypatch.setattr(choose_kernels.probe, "choose", lambda *_, **__: pytest.fail("measured again"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "file" / "cache"))  # cannot be written
    resumed = run.run(recipe, Launch(output=str(tmp_path / "stopped"), resume=True))
    assert straight["kernels"] == {"chosen": dataclasses.asdict(chosen), "measured": [{}], "source": "probe"} | {
        "why": "measured when this run began"
    }
    assert resumed["kernels"] == straight["kernels"] | {"source": "checkpoint", "why": "as when the run began"}
    assert "as when the run began" in (tmp_path / "stopped" / "README.md").read_text()
    assert resumed["environment"]["mixed_precision"] == "no"
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("straight", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_on_cached_activations_says_that_it_cannot_continue_without(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh activations differ by rounding; and a run that began on fresh ones continues on them."""
    frozen = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, frozen_layers=2))
    (tmp_path / "file").touch()
    caches = {"cached": tmp_path / "cache", "fresh": tmp_path / "file" / "cache"}  # the second cannot be written
    for name, cache in caches.items():
        monkeypatch.setenv("HF_FINETUNE_CACHE", str(cache))
        with monkeypatch.context() as patch, pytest.raises(StoppedBySignal):
            stop_after(patch, 3)
            run.run(frozen, Launch(output=str(tmp_path / name)))
    with pytest.raises(InputError, match=r"cached: the run began on cached activations .*; fresh ones differ"):
        run.run(frozen, Launch(output=str(tmp_path / "cached"), resume=True))
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(caches["cached"]))
    for name, used in (("cached", True), ("fresh", False)):
        with run.trained_run(frozen, Launch(output=str(tmp_path / name), resume=True)) as trained:
            assert trained.setup.rows.report["used"] is used
