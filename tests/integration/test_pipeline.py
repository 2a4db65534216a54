"""Runs in this process on tiny checkpoints: the parity gate, refusals and the head."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small_runs import change_tensor, small_recipe
from helpers.tiny import tiny_text_checkpoint
from safetensors.torch import load_file

from hf_finetune import Batching, Hub, Launch, Model, Optim, Recipe, Train
from hf_finetune.data.tokens import used_token_ids
from hf_finetune.errors import GateError, InputError
from hf_finetune.pipeline import document, fit_head, push, run, save
from hf_finetune.pipeline.batch_plan import step_batches
from hf_finetune.pipeline.optimization import has_sparse_embeddings
from hf_finetune.pipeline.record import HeadStart
from hf_finetune.pipeline.run import prepare
from hf_finetune.training import warm_start


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("input"))


def damage_artifacts(monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]) -> None:
    """Apply `damage` to the run's folder between saving and the parity gate."""
    save_artifacts = save.save_artifacts

    def save_badly(network, prepared, folder, task):
        artifacts = save_artifacts(network, prepared, folder, task)
        damage(folder)
        return artifacts

    monkeypatch.setattr(save, "save_artifacts", save_badly)


@pytest.mark.usefixtures("gate_here")
def test_damaged_artifacts_fail_the_gate_and_are_not_pushed(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor of the merged model is changed, and one of the adapter's head."""

    def damage(folder: Path) -> None:
        change_tensor(folder / "model" / "model.safetensors", "classifier.bias")
        change_tensor(folder / "adapter" / "adapter_model.safetensors", "base_model.model.classifier.weight")

    damage_artifacts(monkeypatch, damage)
    monkeypatch.setattr(run, "check_target", lambda *_: "token")
    monkeypatch.setattr(push, "push_run", lambda *_, **__: pytest.fail("pushed a damaged model"))
    pushed = dataclasses.replace(recipe, method="lora", hub=Hub(repo_id="me/small"))
    with pytest.raises(GateError, match="reload does not reproduce"):
        run.run(pushed, Launch(output=str(tmp_path / "run")))
    checks = json.loads((tmp_path / "run" / "result.json").read_text())["parity"]
    assert checks["reload"]["ok"] is False and checks["reload"]["max_abs_difference"] > 1e-4
    assert checks["adapter"]["ok"] is False
    assert (tmp_path / "run" / "checkpoints").is_dir()


def test_an_artifact_that_cannot_be_loaded_is_reported(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage_artifacts(monkeypatch, lambda folder: (folder / "model" / "model.safetensors").write_bytes(b"no tensors"))
    with pytest.raises(GateError, match="a fresh process could not load the saved folder: "):
        run.run(recipe, Launch(output=str(tmp_path / "run")))
    check = json.loads((tmp_path / "run" / "result.json").read_text())["parity"]["reload"]
    assert check["ok"] is False and check["error"]
    assert "it could not be loaded |  |  | NO |" in (tmp_path / "run" / "README.md").read_text()


def test_test_rows_decide_nothing_and_the_same_seed_gives_the_same_bits(recipe: Recipe, tmp_path: Path) -> None:
    """Two runs that differ only in their test rows, of which one has the labels swapped, choose and train the same."""
    rows = [("a good film", "good"), ("a bad film", "bad"), ("bad bad", "bad")]
    swapped = [(text, {"good": "bad", "bad": "good"}[label]) for text, label in rows * 4]
    ends = []
    for name, lines in {"one": rows, "other": swapped}.items():
        (tmp_path / f"{name}.csv").write_text("".join(f"{','.join(line)}\n" for line in [("text", "label"), *lines]))
        data = dataclasses.replace(recipe.data, test=str(tmp_path / f"{name}.csv"))
        train = dataclasses.replace(recipe.train, num_train_epochs=3.0, early_stopping_patience=1)
        changed = dataclasses.replace(recipe, data=data, train=train)
        with run.trained_run(changed, Launch(output=str(tmp_path / name))) as trained:
            assert len(trained.run.data.splits.test or ()) == len(lines)
            ends.append((trained.trainer.state, trained.network.state_dict()))
    (state, weights), (other_state, other_weights) = ends
    assert (state.global_step, state.best_global_step, state.best_metric) == (
        other_state.global_step,
        other_state.best_global_step,
        other_state.best_metric,
    )
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


@pytest.mark.usefixtures("gate_here")
def test_local_data_are_named_without_their_path(tmp_path: Path) -> None:
    (tmp_path / "movie.csv").touch()
    assert document.path_name(str(tmp_path / "movie.csv"), None) == "movie.csv"
    assert document.path_name(str(tmp_path / "movie.csv"), "Movie reviews") == "Movie reviews"
    assert document.path_name("nyu-mll/glue", "GLUE") == "nyu-mll/glue", "the card links to it"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hub": Hub(repo_id="me/small")}, "HF_HUB_OFFLINE|no Hugging Face token"),
        ({"hub": Hub(repo_id="small")}, "expected your-name/its-name"),
        ({"train": Train(gradient_accumulation_steps=70)}, "a step of 54 rows cannot be shared"),
        ({"train": Train(extra={"label_smoothing_factor": 0.1})}, "train.extra.label_smoothing_factor"),
    ],
)
def test_runs_that_cannot_succeed_are_refused_before_writing(
    recipe: Recipe, tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run.run(dataclasses.replace(recipe, **changes), Launch(output=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_refusals_come_before_the_notes(recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wrong = dataclasses.replace(recipe, train=Train(extra={"adam_bet1": 0.9}))
    with caplog.at_level("INFO", "hf_finetune.run"), pytest.raises(InputError, match="adam_bet1"):
        run.run(wrong, Launch(output=str(tmp_path / "run")))
    assert not [r for r in caplog.records if r.name == "hf_finetune.run"]
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("gate_here")
def test_unpadded_steps_of_a_token_budget(recipe: Recipe, tmp_path: Path) -> None:
    """The run takes the planned steps, and plain transformers loads its model/ in the gate."""
    budgeted = dataclasses.replace(recipe, batching=Batching(token_budget=160, unpadded=True))
    result = run.run(budgeted, Launch(str(tmp_path / "run")))
    prepared = prepare(budgeted)
    encoded = prepared.data.inputs.encode(prepared.data.splits.train)
    batches = step_batches(prepared, prepared.data.inputs.lengths(encoded))
    assert result["steps"] == batches.steps != step_batches(prepare(recipe), None).steps
    assert result["parity"]["reload"]["ok"]
    assert result["throughput"]["train_tokens_per_s"] > 0


def test_a_token_budget_too_small_for_the_processes_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    train = dataclasses.replace(recipe.train, gradient_accumulation_steps=4)
    small = dataclasses.replace(recipe, batching=Batching(token_budget=20), train=train)
    with pytest.raises(InputError, match=r"^batching.token_budget: 20 tokens make a step of 1 row"):
        run.run(small, Launch(str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_the_cached_head_of_an_earlier_run_gives_the_same_bits(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first run fits the head, the second reads it from the cache, the third fits it again as the cache is damaged."""
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run, "finalize", lambda trained: trained.trainer.model.state_dict())
    fitted, found = [], "as an earlier run on this machine fitted it"
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, head_least_explained=-100.0))
    fit = fit_head.warm_start.fit_head
    monkeypatch.setattr(
        fit_head.warm_start, "fit_head", lambda *given, **by_name: fitted.append(1) or fit(*given, **by_name)
    )
    trained = []
    for number in range(3):
        if number == 2:
            [head] = (tmp_path / "cache" / "heads").glob("*/head.safetensors")
            head.write_bytes(head.read_bytes()[:-1] + b"?")
        caplog.clear()
        with caplog.at_level("INFO", "hf_finetune"):
            trained.append(run.run(recipe, Launch(output=str(tmp_path / f"run-{number}"))))
        assert (found in caplog.text) == (number == 1) and ("damaged" in caplog.text) == (number == 2)
    assert len(fitted) == 2
    assert all(torch.equal(trained[0][name], other[name]) for other in trained[1:] for name in other)


def test_the_head_stays_random_where_a_fit_explains_too_little(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The random head is the one without a fit, bit for bit; a fit that explains enough replaces it."""
    monkeypatch.setattr(
        run, "finalize", lambda trained: (trained.setup.record.head, trained.trainer.model.classifier.weight)
    )

    def began(name: str, **fields: Any) -> tuple[HeadStart | None, torch.Tensor]:
        train = dataclasses.replace(recipe.train, max_steps=1, learning_rate=1e-12, **fields)
        return run.run(dataclasses.replace(recipe, train=train), Launch(output=str(tmp_path / name)))

    without, random = began("without", head_warm_start=False)
    little, left = began("little", head_least_explained=1.0)
    enough, fitted = began("enough", head_least_explained=-100.0)
    assert without is None and not little.fitted and enough.fitted
    assert little.explained == enough.explained < 1
    assert torch.equal(random, left) and not torch.allclose(random, fitted, atol=1e-3)


def test_shortcuts_change_no_number(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow and full last layer, sparse and dense word embeddings: the same weights, but unused words stay as they are."""
    monkeypatch.setattr(run, "finalize", lambda trained: trained.trainer.model.state_dict())
    model = dataclasses.replace(recipe.model, dropout=0.0)

    def trained(name: str, *, narrow: bool, words: str) -> dict[str, torch.Tensor]:
        chosen = dataclasses.replace(
            recipe,
            model=dataclasses.replace(model, narrow_last_layer=narrow),
            optim=Optim(word_embeddings=words),
        )
        return run.run(chosen, Launch(str(tmp_path / name)))

    plain = trained("plain", narrow=False, words="dense")
    spared = trained("spared", narrow=True, words="sparse")
    frozen = trained("frozen", narrow=True, words="frozen")
    table = next(name for name in plain if name.endswith("word_embeddings.weight"))
    prepared = prepare(recipe)
    occur = used_token_ids(prepared.data.inputs.encode(prepared.data.splits.train))
    start = prepared.model.network.state_dict()[table]
    others = np.setdiff1d(np.arange(len(start)), occur)
    assert len(others) > 50 and torch.equal(spared[table][others], start[others])
    assert torch.allclose(spared[table][occur], plain[table][occur], atol=1e-4)
    assert not torch.allclose(spared[table][occur], start[occur], atol=1e-4)
    assert all(torch.allclose(spared[name], plain[name], atol=1e-4) for name in plain if name != table)
    assert torch.equal(frozen[table], start)


@pytest.mark.usefixtures("gate_here")
def test_gradient_checkpointing(recipe: Recipe, tmp_path: Path) -> None:
    """It draws the same dropout, to the bits of a run without it and without fast dropout. A family without support for
    it is refused."""
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, max_steps=3, learning_rate=1e-3))
    dropping = dataclasses.replace(recipe.model, dropout=0.3)
    weights = []
    for name, model, extra in (
        ("recomputed", dropping, {"activation_checkpointing": True}),
        ("stored", dataclasses.replace(dropping, fast_dropout=False), {}),
    ):
        train = dataclasses.replace(recipe.train, extra=extra)
        run.run(dataclasses.replace(recipe, model=model, train=train), Launch(str(tmp_path / name)))
        weights.append(load_file(tmp_path / name / "model" / "model.safetensors"))
    assert weights[0].keys() == weights[1].keys() and all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])
    mpnet = Model(str(tiny_text_checkpoint(tmp_path / "mpnet", "mpnet")))
    train = dataclasses.replace(recipe.train, extra={"activation_checkpointing": True})
    with pytest.raises(InputError, match="gradient_checkpointing: expected false here: mpnet"):
        run.run(dataclasses.replace(recipe, model=mpnet, train=train), Launch(str(tmp_path / "refused")))
    assert not (tmp_path / "refused").exists()


@pytest.mark.usefixtures("gate_here")
def test_the_head_is_fitted_to_classes_that_the_sample_lacks(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of each missing class is added to the sample."""
    monkeypatch.setattr(warm_start, "MOST_ROWS", 1)
    train = dataclasses.replace(recipe.train, max_steps=1, head_least_explained=-100.0)
    result = run.run(dataclasses.replace(recipe, train=train), Launch(str(tmp_path / "run")))
    assert result is not None and result["head"]["fitted"]


@pytest.mark.usefixtures("gate_here")
def test_a_soup_with_a_score_before_the_first_step(recipe: Recipe, tmp_path: Path) -> None:
    train = dataclasses.replace(recipe.train, num_train_epochs=2.0, extra={"eval_on_start": True})
    recipe = dataclasses.replace(recipe, train=train, averaging=dataclasses.replace(recipe.averaging, soup=True))
    result = run.run(recipe, Launch(str(tmp_path / "run")))
    assert result is not None and result["parity"]["reload"]["ok"]


def test_several_gpus_train_dense_embeddings(recipe: Recipe) -> None:
    """Unlike gloo, NCCL does not add up sparse gradients."""
    prepared = prepare(recipe)
    two = dataclasses.replace(prepared.context, processes=2)
    assert has_sparse_embeddings(dataclasses.replace(prepared, context=two))
    on_gpu = dataclasses.replace(two, device=torch.device("cuda"))
    assert not has_sparse_embeddings(dataclasses.replace(prepared, context=on_gpu))
