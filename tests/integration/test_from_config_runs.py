"""Whole runs of networks of random weights: what is trained, saved and said, and what they do not go with."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import image_folder, small_recipe
from helpers.tiny import tiny_image_checkpoint
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_finetune import Averaging, ImageData, Launch, Model, Recipe, Train
from hf_finetune.cli.search import parse_search
from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.errors import InputError
from hf_finetune.models.surgery.stochastic_depth import StochasticDepth
from hf_finetune.pipeline import run as pipeline
from hf_finetune.pipeline.run import prepare
from hf_finetune.utils.plain import merge, to_plain

pytestmark = pytest.mark.usefixtures("gate_here")
SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = small_recipe(tmp_path_factory.mktemp("texts"))
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, from_config=SMALL))


def of_pictures(folder: Path, family: str, **fields: Any) -> Recipe:
    """24 images, one epoch."""
    return dataclasses.replace(
        small_recipe(folder),
        data=ImageData(path=str(image_folder(folder / "pictures", 24))),
        model=Model(checkpoint=str(tiny_image_checkpoint(folder / family, family)), **fields),
    )


def run(recipe: Recipe, folder: Path) -> dict[str, Any]:
    result = pipeline.run(recipe, Launch(str(folder)))
    assert result is not None and all(check["ok"] for check in result["parity"].values())
    return result


def test_a_text_network(texts: Recipe, tmp_path: Path) -> None:
    """Small as asked for, trained from random weights at the rate for such, no head fitted; the card says all that."""
    result = run(texts, tmp_path / "run")
    assert result["from_config"] == SMALL and result["base_model"] is None
    assert result["learning_rate"] == 5e-4 and "head_warm_start_s" not in result["time"]
    assert result["parameters"]["trained"] == result["parameters"]["total"] < 10_000
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert {name: config[name] for name in SMALL} == SMALL
    assert (tmp_path / "run" / "model" / "tokenizer.json").exists()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "`num_hidden_layers: 2, hidden_size: 16, num_attention_heads: 2, intermediate_size: 24`" in card
    assert "all its weights trained from random initialization" in card
    assert "| model.from_config.hidden_size | 16 |" in card and "base model" not in card.partition("## Limitations")[2]
    assert "none of its weights is used, all start at random from seed 0" in card


def test_no_weights_need_be_there(texts: Recipe, tmp_path: Path) -> None:
    """The config and the tokenizer, or the processor, are all that is taken of the checkpoint."""
    bare = shutil.copytree(texts.model.checkpoint, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    without = dataclasses.replace(texts, model=dataclasses.replace(texts.model, checkpoint=str(bare)))
    for name, recipe in (("with", texts), ("without", without)):
        run(recipe, tmp_path / name)
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("with", "without"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(InputError, match=r"bare: no weights in it; expected model.safetensors"):
        prepare(dataclasses.replace(without, model=Model(str(bare))))
    pictures = of_pictures(tmp_path, "vit", from_config=SMALL)
    (Path(pictures.model.checkpoint) / "model.safetensors").unlink()
    assert prepare(pictures).model.network.config.hidden_size == 16


def test_an_image_network_reads_its_own_size(tmp_path: Path) -> None:
    """Its processor is saved so; stochastic depth goes with it, as DeiT's recipe has it."""
    recipe = of_pictures(
        tmp_path, "vit", from_config=SMALL | {"image_size": 16, "patch_size": 4}, surgery=(StochasticDepth(0.1),)
    )
    run(recipe, tmp_path / "run")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "run" / "model")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "model")
    assert processor.to_dict()["size"] == {"height": 16, "width": 16}
    assert model.vit.embeddings.position_embeddings.shape == (1, 17, 16)


@pytest.mark.parametrize(
    ("family", "changes"),
    [("deit", SMALL), ("convnext", {"depths": [1, 1, 1, 1]}), ("resnet", {"depths": [1, 1, 1, 1]})],
)
def test_other_image_networks(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Of random weights BatchNorm has no statistics yet: they are taken while training, and that is said."""
    recipe = of_pictures(tmp_path, family, from_config=changes)
    result = run(recipe, tmp_path / "run")
    means = [w for n, w in load_file(tmp_path / "run" / "model" / "model.safetensors").items() if "running_mean" in n]
    assert bool(means) == (family == "resnet") and all(float(mean.abs().max()) > 0 for mean in means)
    said = [note for note in result["notes"] if "BatchNorm normalizes by the rows of each forward pass" in note]
    assert len(said) == bool(means)
    if means:
        with pytest.raises(
            InputError, match=r"averaging: expected none beside model.from_config of a network with Batch"
        ):
            run(dataclasses.replace(recipe, averaging=Averaging(ema_decay=0.9)), tmp_path / "averaged")
        assert not (tmp_path / "averaged").exists()


def test_a_field_that_no_network_of_the_family_has(texts: Recipe, tmp_path: Path) -> None:
    model = dataclasses.replace(texts.model, from_config={"hidden_sise": 16})
    with pytest.raises(InputError, match=r"^model.from_config.hidden_sise: .*did you mean 'hidden_size'"):
        pipeline.run(dataclasses.replace(texts, model=model), Launch(str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_by_flag_and_by_yaml(tmp_path: Path) -> None:
    flag = ["nowhere", "--text", "a", "--model.from-config", "{num_hidden_layers: 4, hidden_size: 64}"]
    job = parse_train(TrainJob, flag, "x")
    assert job.recipe.model.from_config == {"num_hidden_layers": 4, "hidden_size": 64}
    (tmp_path / "mine.yaml").write_text("model: {from_config: {depths: [1, 2], layer_type: basic}}\ndata: {image: a}")
    job = parse_train(TrainJob, ["nowhere", "--config", str(tmp_path / "mine.yaml")], "x")
    assert job.recipe.model.from_config == {"depths": [1, 2], "layer_type": "basic"}
    blank = Recipe(name="", data=job.recipe.data, model=Model(checkpoint=""))
    assert merge(blank, to_plain(job.recipe)) == job.recipe
    with pytest.raises(InputError, match=r"model.from_config: expected a mapping or null, got 4"):
        parse_train(TrainJob, ["nowhere", "--text", "a", "--model.from-config", "4"], "x")
    with pytest.raises(InputError, match=r"--model.from-config: .*search"):
        parse_search(flag, "x")


def test_no_head_is_fitted(texts: Recipe) -> None:
    assert not texts.fits_head
    plain = dataclasses.replace(texts, model=dataclasses.replace(texts.model, from_config=None))
    assert plain.fits_head and not dataclasses.replace(plain, train=Train(head_warm_start=False)).fits_head
