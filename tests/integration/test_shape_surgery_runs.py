"""Whole runs on checkpoints in another shape: other patches, images, kernels, pooling and longer texts, proven by
parity."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from helpers.small_runs import image_rows, small_recipe
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from safetensors.torch import load_file

from hf_finetune import Averaging, ImageData, Launch, Model, Recipe
from hf_finetune.cli.main import main_command
from hf_finetune.errors import InputError
from hf_finetune.models.surgery.activation import SetActivation
from hf_finetune.models.surgery.kernel_size import SetKernelSize, center_kernel
from hf_finetune.models.surgery.layers import AddLayers
from hf_finetune.models.surgery.patches import ResizeImage, ResizePatches, resize_kernel
from hf_finetune.models.surgery.pooling import SetPooling
from hf_finetune.models.surgery.positions import ExtendPositions
from hf_finetune.models.surgery.reinit import ReinitTopLayers
from hf_finetune.pipeline import run as pipeline

pytestmark = pytest.mark.usefixtures("gate_here")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """36 training images of 32x32 in steps of 8, one epoch, float32; the checkpoint is still to be named."""
    folder = tmp_path_factory.mktemp("pictures")
    for row in image_rows(40):
        path = folder / "data" / ("dark", "bright")[row["label"]] / f"{row['row']}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"]["bytes"])
    return dataclasses.replace(small_recipe(folder), data=ImageData(path=str(folder / "data")))


def run(recipe: Recipe, checkpoint: Path, folder: Path, *surgery, method: str = "full") -> tuple[dict, dict, dict]:
    """The saved config, the weights before and those after, of a run whose parity gate held."""
    recipe = dataclasses.replace(recipe, model=Model(checkpoint=str(checkpoint), surgery=surgery), method=method)
    result = pipeline.run(recipe, Launch(output=str(folder)))
    assert result["parity"]["reload"]["ok"], result["parity"]
    saved = json.loads((folder / "model" / "config.json").read_text())
    return saved, load_file(checkpoint / "model.safetensors"), load_file(folder / "model" / "model.safetensors")


def test_vit_of_other_patches_and_images(pictures: Recipe, tmp_path: Path) -> None:
    """Only the head trains, so the kernel that is saved is the resized one."""
    checkpoint = tiny_image_checkpoint(tmp_path / "vit", "vit")
    config, before, after = run(pictures, checkpoint, tmp_path / "run", ResizePatches(16, image_size=64), method="head")
    assert (config["patch_size"], config["image_size"]) == (16, 64)
    processor = json.loads((tmp_path / "run" / "model" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 64, "width": 64}
    name = "embeddings.patch_embeddings.projection.weight"
    assert torch.allclose(after[f"vit.{name}"], resize_kernel(before[name], 16))
    assert torch.equal(after["vit.embeddings.position_embeddings"], before["embeddings.position_embeddings"])


def test_efficientnet_of_other_kernels_and_pooling(pictures: Recipe, tmp_path: Path) -> None:
    """What a larger kernel has around the old one starts at zero, and trains like the rest."""
    checkpoint = tiny_image_checkpoint(tmp_path / "efficientnet", "efficientnet")
    surgery = (SetKernelSize(5, stages=(0, 1)), SetPooling(kind="max"), ResizeImage(48))
    config, before, after = run(pictures, checkpoint, tmp_path / "run", *surgery)
    assert (config["kernel_sizes"], config["pooling_type"], config["image_size"]) == ([5, 5, 5], "max", 48)
    name = "encoder.blocks.1.depthwise_conv.depthwise_conv.weight"
    started, trained = center_kernel(before[name], 5), after[f"efficientnet.{name}"]
    assert 0 < (trained - started).abs().max() < 0.01 < started.abs().max()
    assert trained[started == 0].any()
    # BatchNorm keeps what pretraining measured.
    statistics = "encoder.top_bn.running_mean"
    assert torch.equal(after[f"efficientnet.{statistics}"], before[statistics])


def test_poolformer_of_other_kernels_and_windows(pictures: Recipe, tmp_path: Path) -> None:
    """The two highest layers train, and the convolution that leads to the last one; below, kernels are as made."""
    checkpoint = tiny_image_checkpoint(tmp_path / "poolformer", "poolformer")
    surgery = (SetKernelSize(9), SetPooling(size=5))
    config, before, after = run(pictures, checkpoint, tmp_path / "run", *surgery, method="top")
    assert (config["patch_sizes"], config["padding"], config["pool_size"]) == ([9] * 4, [3, 4, 4, 4], 5)
    names = [f"encoder.patch_embeddings.{stage}.projection.weight" for stage in range(4)]
    as_made = [torch.equal(after[f"poolformer.{name}"], center_kernel(before[name], 9)) for name in names]
    assert as_made == [True, True, True, False]


def test_roberta_of_longer_texts(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    long = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, max_length=100))
    rows = (tmp_path / "train.csv").read_text().splitlines()
    # Six times each text: more than the 64 tokens of the checkpoint.
    repeated = [f"{' '.join([text] * 6)},{label}" for text, label in (row.rsplit(",", 1) for row in rows[1:])]
    (tmp_path / "train.csv").write_text("\n".join([rows[0], *repeated]))
    checkpoint = tiny_text_checkpoint(tmp_path / "roberta", "roberta")
    config, before, after = run(long, checkpoint, tmp_path / "run", ExtendPositions(100))
    assert config["max_position_embeddings"] == 102
    tokenizer = json.loads((tmp_path / "run" / "model" / "tokenizer_config.json").read_text())
    assert tokenizer["model_max_length"] == 100
    table = after["roberta.embeddings.position_embeddings.weight"]
    old = before["embeddings.position_embeddings.weight"]
    # Position 64 began as a copy of position 0, and has learned since.
    moved = (table[66] - old[2]).abs().max()
    assert 0 < moved < 0.05 < (old[2] - old[3]).abs().max()


def test_resnet_of_more_layers_and_a_top_begun_anew(pictures: Recipe, tmp_path: Path) -> None:
    """What starts at random has no statistics yet: its BatchNorm measures them, that of all other layers keeps them."""
    checkpoint = tiny_image_checkpoint(tmp_path / "resnet", "resnet")
    surgery = (AddLayers(layers=(3,)), SetActivation("silu"), ReinitTopLayers(1))
    config, before, after = run(pictures, checkpoint, tmp_path / "run", *surgery)
    assert (config["depths"], config["hidden_act"]) == ([1, 1, 3, 1], "silu")
    added = after["resnet.encoder.stages.2.layers.2.layer.1.normalization.weight"]
    assert 0 < added.abs().max() < 0.01
    changed = {
        name for name, old in before.items() if "running_mean" in name and not torch.equal(after[f"resnet.{name}"], old)
    }
    assert len(changed) == 3 and all(name.startswith("encoder.stages.3.layers.0.") for name in changed)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert any(note.startswith("ReinitTopLayers in model.surgery: BatchNorm normalizes") for note in result["notes"])
    averaged = dataclasses.replace(pictures, averaging=Averaging(ema_decay=0.9))
    with pytest.raises(
        InputError, match=r"averaging: expected none beside ReinitTopLayers in model.surgery of a network"
    ):
        run(averaged, checkpoint, tmp_path / "averaged", *surgery)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "beans_patch32", "--model.surgery.0.image-size", "45"],
            "ResizePatches: image_size: expected a multiple of 32 pixels for this vit, got 45; give 32 or 64",
        ),
        (
            ["run", "beans_full", "--model.surgery", "[{type: ResizeImage, size: 20}]"],
            "ResizeImage: size: expected a multiple of 8 pixels for this vit, got 20; give 16 or 24",
        ),
        (
            ["run", "beans_full", "--model.surgery", "[{type: SetKernelSize, size: 5}, SetPooling]"],
            "SetKernelSize: vit has none in its config, so plain transformers could not load the result; use an "
            "efficientnet or poolformer checkpoint",
        ),
        (
            ["run", "sst2_full", "--model.surgery", "[{type: ExtendPositions, length: 40}]"],
            "ExtendPositions: length: this bert has 64 positions; expected more, got 40",
        ),
    ],
)
def test_refused_on_the_command_line_before_anything_is_read(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipes' data are on the Hub, which no test reaches."""
    make, family = (tiny_text_checkpoint, "bert") if "sst2_full" in arguments else (tiny_image_checkpoint, "vit")
    checkpoint = make(tmp_path / family, family)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main_command([*arguments, "--model", str(checkpoint), "--output", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[0] == f"model.surgery: {message}"
    assert not (tmp_path / "run").exists()
