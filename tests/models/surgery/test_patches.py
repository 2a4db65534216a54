"""Other patch and image sizes: values by hand, the family's own interpolation, reload with transformers."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.tiny import tiny_image_checkpoint
from torch.nn import functional as F
from transformers import AutoModelForImageClassification, PreTrainedModel

from hf_finetune.models.surgery.patches import ResizeImage, ResizePatches, image_size_after, resize_kernel

PATCHES = ("vit", "deit", "dinov2", "dinov2_with_registers", "beit")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PreTrainedModel]:
    """Return a copy of the family's tiny classifier with random positions."""
    made: dict[str, PreTrainedModel] = {}

    def load(family: str, **config) -> PreTrainedModel:
        key = f"{family} {config}"
        if key not in made:
            folder = tiny_image_checkpoint(tmp_path_factory.mktemp("tiny"), family, **config)
            made[key] = load_classifier(folder, task="image-classification", labels=["a", "b"]).model.eval()
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for name, parameter in made[key].named_parameters():
                    if "position" in name:
                        parameter.normal_(std=0.5, generator=generator)
        return copy.deepcopy(made[key])

    return load


def pixels(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def reloads(model: PreTrainedModel, folder: Path, size: int) -> None:
    """Check that the saved model, loaded with plain transformers, has the same logits."""
    model.save_pretrained(folder)
    stock = AutoModelForImageClassification.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        assert torch.allclose(stock(pixels(size)).logits, model(pixels(size)).logits, atol=1e-6)


def test_kernel_by_hand() -> None:
    """One pixel becomes four equal ones, each with a quarter of the weight; back, the weights are summed."""
    one = torch.tensor([[[[8.0]]]])
    assert torch.allclose(resize_kernel(one, 2), torch.full((1, 1, 2, 2), 2.0))
    assert torch.allclose(resize_kernel(torch.full((1, 1, 2, 2), 2.0), 1), one)
    assert torch.equal(resize_kernel(one, 1), one)


@pytest.mark.parametrize(("old", "new"), [(2, 4), (3, 4), (4, 14)])
def test_resized_kernel_gives_the_same_token_for_the_resized_patch(old: int, new: int) -> None:
    generator = torch.Generator().manual_seed(0)
    kernel, patch = (torch.randn(n, 3, old, old, generator=generator) for n in (5, 2))
    larger = F.interpolate(patch, (new, new), mode="bilinear")
    assert torch.allclose(F.conv2d(larger, resize_kernel(kernel, new)), F.conv2d(patch, kernel), atol=1e-4)
    # Cutting or repeating the kernel would not.
    assert not torch.allclose(F.conv2d(larger, F.interpolate(kernel, (new, new))), F.conv2d(patch, kernel), atol=1e-1)


@pytest.mark.parametrize("family", PATCHES)
def test_positions_are_the_familys_own(family: str, model: Callable, tmp_path: Path) -> None:
    """The model resized to 64 pixels equals the model for 32 pixels that interpolates, also after a reload."""
    before = model(family)
    after = ResizeImage(64)(model(family))
    assert after.config.image_size == 64 and before.config.image_size == 32
    told = {"interpolate_pos_encoding": True} if family in ("vit", "deit") else {}
    with torch.no_grad():
        expected, actual = before(pixels(64), **told).logits, after(pixels(64)).logits
    assert torch.allclose(actual, expected, atol=1e-5) and actual.std() > 1e-3
    reloads(after, tmp_path, 64)


@pytest.mark.parametrize(
    "config", [{"use_absolute_position_embeddings": True}, {"use_shared_relative_position_bias": True}]
)
def test_other_positions_of_beit(config: dict, model: Callable, tmp_path: Path) -> None:
    config = {"use_relative_position_bias": False, **config}
    before, after = model("beit", **config), ResizeImage(16)(model("beit", **config))
    with torch.no_grad():
        assert torch.allclose(after(pixels(16)).logits, before(pixels(16)).logits, atol=1e-5)
    reloads(after, tmp_path, 16)


@pytest.mark.parametrize("family", [*PATCHES, "convnext", "convnextv2"])
def test_larger_patches_of_a_larger_image_change_nothing(family: str, model: Callable, tmp_path: Path) -> None:
    """If every patch is enlarged by itself, its token stays the same, and so do the logits."""
    before = model(family)
    old = before.config.patch_size
    after = ResizePatches(2 * old, image_size=64)(model(family))
    assert (after.config.patch_size, after.config.image_size) == (2 * old, 64)
    # Each patch by itself: bilinear resizing of the full image would mix neighbors.
    tiles = F.unfold(pixels(32), old, stride=old).transpose(1, 2).reshape(-1, 3, old, old)
    tiles = F.interpolate(tiles, scale_factor=2, mode="bilinear").reshape(2, -1, 12 * old * old).transpose(1, 2)
    larger = F.fold(tiles, 64, 2 * old, stride=2 * old)
    with torch.no_grad():
        assert torch.allclose(after(larger).logits, before(pixels(32)).logits, atol=1e-4)
    reloads(after, tmp_path, 64)


@pytest.mark.parametrize("family", PATCHES)
def test_other_patches_of_the_same_image(family: str, model: Callable, tmp_path: Path) -> None:
    after = ResizePatches(16)(model(family))
    assert after.base_model.embeddings.patch_embeddings.projection.weight.shape[-2:] == (16, 16)
    reloads(after, tmp_path, 32)


@pytest.mark.parametrize("family", ["swin", "convnext", "convnextv2", "resnet", "efficientnet", "poolformer"])
def test_networks_without_positions_keep_their_weights(family: str, model: Callable, tmp_path: Path) -> None:
    before, after = model(family), ResizeImage(64)(model(family))
    assert all(torch.equal(before.state_dict()[n], t) for n, t in after.state_dict().items())
    assert family in ("resnet", "poolformer") or after.config.image_size == 64
    reloads(after, tmp_path, 64)


def test_absolute_positions_of_swin(model: Callable, tmp_path: Path) -> None:
    before, after = (model("swin", use_absolute_embeddings=True) for _ in range(2))
    after = ResizeImage(64)(after)
    assert after.base_model.embeddings.position_embeddings.shape == (1, 256, 16)
    reloads(after, tmp_path, 64)
    with torch.no_grad():
        assert torch.allclose(
            after(pixels(64)).logits, before(pixels(64), interpolate_pos_encoding=True).logits, atol=1e-5
        )


def test_mode_stays(model: Callable) -> None:
    assert ResizeImage(16)(model("vit").train()).training
    assert not ResizeImage(16)(model("vit").eval()).training


def test_last_image_size_counts() -> None:
    assert image_size_after([]) is None
    assert image_size_after([ResizePatches(16)]) is None
    assert image_size_after([ResizeImage(64), ResizePatches(16)]) == 64
    assert image_size_after([ResizeImage(64), ResizePatches(16, 32)]) == 32
