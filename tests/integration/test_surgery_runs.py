"""Whole runs on operated checkpoints: trained as their definition says, saved, loaded again, gone on with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from helpers.small_runs import image_rows, small_recipe, stop_after
from helpers.tiny import tiny_image_checkpoint
from safetensors.torch import load_file

from hf_finetune import Batching, ImageData, Launch, Model, Recipe
from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.models.surgery.operations import (
    AddLayers,
    DropLayers,
    DuplicateLayers,
    KeepLayers,
    LayerDrop,
    ReinitTopLayers,
    ResizeFeedForward,
    SetActivation,
    SetAttention,
    SetDropout,
    StochasticDepth,
    SurgeryStep,
)
from hf_finetune.pipeline import run
from hf_finetune.utils.plain import merge

pytestmark = pytest.mark.usefixtures("gate_here")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("input"))


def operated(recipe: Recipe, *steps: SurgeryStep, **model) -> Recipe:
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, surgery=steps, **model))


def test_texts_and_resume(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = (
        KeepLayers(layers=(0, 2)),
        AddLayers(last=1),
        ResizeFeedForward(width=80),
        SetDropout(classifier=0.2),
        SetAttention("sdpa"),
        LayerDrop(0.2),
    )
    recipe = operated(recipe, *operations, frozen_layers=1)
    result = run.run(recipe, Launch(output=str(tmp_path / "run")))
    assert result["parity"]["reload"]["ok"] and result["parity"]["pipeline"]["ok"]
    assert result["kernels"]["chosen"]["attention"] == "sdpa"

    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["intermediate_size"], config["classifier_dropout"]) == (3, 80, 0.2)
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert result["parameters"]["total"] == sum(tensor.numel() for tensor in saved.values())
    pretrained = load_file(Path(recipe.model.checkpoint) / "model.safetensors")

    def query(number: int) -> torch.Tensor:
        return saved[f"bert.encoder.layer.{number}.attention.self.query.weight"]

    def was(number: int) -> torch.Tensor:
        return pretrained[f"encoder.layer.{number}.attention.self.query.weight"]

    assert torch.equal(query(0), was(0)), "frozen"
    assert 0 < (query(1) - was(2)).abs().max() < 0.01 < (query(1) - was(1)).abs().max()
    # The added layer said nothing at first, nor did the new neurons.
    for name, columns in (
        ("2.attention.output.dense", slice(None)),
        ("2.output.dense", slice(None)),
        ("1.output.dense", slice(64, 80)),
    ):
        assert 0 < saved[f"bert.encoder.layer.{name}.weight"][:, columns].abs().max() < 0.01
    card = (tmp_path / "run" / "README.md").read_text()
    assert "KeepLayers(layers=(0, 2)), AddLayers(last=1), ResizeFeedForward(width=80)" in card
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]
    assert record["model"]["surgery"][0]["type"] == "KeepLayers"
    read = merge(Recipe("other", recipe.data, Model("other")), {"model": record["model"]}).model
    assert read == dataclasses.replace(recipe.model, pooling="default")

    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(StoppedBySignal):
            run.run(recipe, Launch(output=str(tmp_path / "stopped")))
    with pytest.raises(InputError, match=r"model\.surgery"):
        run.run(operated(recipe, KeepLayers(first=2)), Launch(output=str(tmp_path / "stopped"), resume=True))
    run.run(recipe, Launch(output=str(tmp_path / "stopped"), resume=True))
    resumed = load_file(tmp_path / "stopped" / "model" / "model.safetensors")
    assert all(torch.equal(resumed[name], saved[name]) for name in saved)


def test_an_adapter_is_merged_and_not_left_alone(recipe: Recipe, tmp_path: Path) -> None:
    lora = dataclasses.replace(operated(recipe, KeepLayers(first=2)), method="lora")
    result = run.run(lora, Launch(output=str(tmp_path / "run")))
    assert result["parity"]["reload"]["ok"] and "adapter" not in result["parity"]
    assert not (tmp_path / "run" / "adapter").exists()
    assert any(note.startswith("adapter: only model/ is saved") for note in result["notes"])
    card = (tmp_path / "run" / "README.md").read_text()
    assert "after `KeepLayers(first=2)`, with lora adapters, merged into the weights" in card
    assert "The adapter alone" not in card
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    pretrained = load_file(Path(recipe.model.checkpoint) / "model.safetensors")
    name = "encoder.layer.1.intermediate.dense.weight"
    assert torch.linalg.matrix_rank(saved[f"bert.{name}"] - pretrained[name], tol=1e-5) <= 8


def test_images(recipe: Recipe, tmp_path: Path) -> None:
    for row in image_rows(40):
        path = tmp_path / "pictures" / ("dark", "bright")[row["label"]] / f"{row['row']}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"]["bytes"])
    checkpoint = tiny_image_checkpoint(tmp_path / "vit", "vit")
    steps = (
        DropLayers(last=1),
        DuplicateLayers(first=1),
        SetActivation("relu"),
        ReinitTopLayers(1),
        StochasticDepth(0.3),
    )
    recipe = dataclasses.replace(
        recipe,
        data=ImageData(path=str(tmp_path / "pictures")),
        model=Model(checkpoint=str(checkpoint), surgery=steps),
    )
    result = run.run(recipe, Launch(output=str(tmp_path / "run")))
    assert result["parity"]["reload"]["ok"] and result["parity"]["pipeline"]["ok"]
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_act"]) == (3, "relu")
    # The first layer and its copy have each gone their own way; the top one did not start from the checkpoint's.
    saved, before = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run" / "model", checkpoint))
    first, copied, top = (saved[f"vit.encoder.layer.{n}.output.dense.weight"] for n in range(3))
    was = [before[f"encoder.layer.{n}.output.dense.weight"] for n in range(2)]
    assert 0 < (first - was[0]).abs().max() < 0.01 and 0 < (copied - was[0]).abs().max() < 0.01
    assert not torch.equal(first, copied) and (top - was[1]).abs().max() > 0.01


def test_refused_before_the_data_are_read(recipe: Recipe, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        operated(recipe, KeepLayers(first=9)), data=dataclasses.replace(recipe.data, path=str(tmp_path / "nowhere"))
    )
    with pytest.raises(InputError, match=r"^model.surgery: KeepLayers: first: expected 1 to 3, .* got 9$"):
        run.run(recipe, Launch(output=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_said_in_yaml_and_by_flags(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "model:\n  surgery: [{type: KeepLayers, layers: [0, 5]}, AddLayers, {type: LayerDrop, rate: 1e-1}]\n"
    )
    flags = ["--text", "text", "--model.surgery.1.last", "1", "--model.surgery.2.schedule", "linear"]
    job = parse_train(TrainJob, ["nowhere", "--config", str(tmp_path / "mine.yaml"), *flags], "hf-finetune train")
    steps = (KeepLayers(layers=(0, 5)), AddLayers(last=1), LayerDrop(0.1, "linear"))
    assert job.recipe.model.surgery == steps
    whole = "[{type: KeepLayers, first: 4}, {type: SetDropout, hidden: 0.2}]"
    job = parse_train(TrainJob, ["nowhere", *flags[:2], "--model.surgery", whole], "hf-finetune train")
    assert job.recipe.model.surgery == (KeepLayers(first=4), SetDropout(hidden=0.2))
    with pytest.raises(InputError, match="SetDropout"):
        merge(job.recipe, {"model": {"surgery": ["SetDropuot"]}})


def test_layers_begun_anew_must_train(recipe: Recipe, tmp_path: Path) -> None:
    """Frozen, their random weights would stay what they are."""
    depth = json.loads((Path(recipe.model.checkpoint) / "config.json").read_text())["num_hidden_layers"]
    wanted = operated(recipe, ReinitTopLayers(2), frozen_layers=depth - 1)
    expected = rf"model.frozen_layers: expected at most {depth - 2} with ReinitTopLayers\(count=2\), .* got {depth - 1}"
    with pytest.raises(InputError, match=expected):
        run.run(wanted, Launch(output=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
    run.prepare(operated(recipe, ReinitTopLayers(2), frozen_layers=depth - 2))


def test_layers_are_not_passed_by_for_a_whole_packed_batch(recipe: Recipe) -> None:
    wanted = dataclasses.replace(operated(recipe, LayerDrop(0.2)), batching=Batching(unpadded=True))
    with pytest.raises(InputError, match=r"batching.unpadded: .*model.surgery skips layers for each row"):
        run.prepare(wanted)
