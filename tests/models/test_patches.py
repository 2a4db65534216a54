"""Lower resolution and dropped patches: in training only, and not saved."""

import copy
from collections.abc import Callable

import pytest
import torch
from helpers.tiny import IMAGE_FAMILIES
from transformers import AutoModelForImageClassification

from hf_finetune.errors import InputError
from hf_finetune.models.families import FAMILIES
from hf_finetune.models.patches import drop_patches, shrink_for

TAKES_OTHER_SIZES = [family for family in IMAGE_FAMILIES if FAMILIES[family].images.any_size]
DROPS = [
    family for family in TAKES_OTHER_SIZES if FAMILIES[family].patch_grid and FAMILIES[family].attention == "plain"
]


def tokens_of(model, batch) -> int:
    """Return the number of tokens that reach the first layer's query."""
    seen = []
    query = next(m for n, m in model.named_modules() if n.endswith(("q_proj", "query")))
    handle = query.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    model(**batch)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("family", DROPS)
def test_patches_are_dropped_in_training_only(family: str, classifier: Callable, inputs: Callable, tmp_path) -> None:
    plain, batch = classifier(family, dropout=0.0).model, inputs(family)
    model = copy.deepcopy(plain)
    drop_patches(model, 0.5)
    model = copy.deepcopy(model)
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch).logits, plain.eval()(**batch).logits)
        prefix = tokens_of(plain, batch) - 16
        assert tokens_of(model.train(), batch) == prefix + 8
        torch.manual_seed(0)
        first, second = model(**batch).logits, model(**batch).logits
        torch.manual_seed(0)
        again = model(**batch).logits
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert model.state_dict().keys() == plain.state_dict().keys()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.allclose(loaded.eval()(**batch).logits, plain(**batch).logits, atol=1e-5)


@pytest.mark.parametrize("family", DROPS)
def test_kept_tokens_are_a_subset_in_order(family: str, classifier: Callable, inputs: Callable) -> None:
    """First the tokens before the patches, then patches of the same image, each once and in order."""
    model, batch = classifier(family, dropout=0.0).model, inputs(family)
    embeddings = model.base_model.embeddings
    with torch.no_grad():
        # All tokens differ.
        for parameter in embeddings.parameters():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    whole = embeddings.train()(batch["pixel_values"])
    drop_patches(model, 0.7)
    part = embeddings(batch["pixel_values"])
    prefix = whole.shape[1] - 16
    assert part.shape == (2, prefix + 5, 32)
    for whole_TD, part_TD in zip(whole, part, strict=True):
        places = [int((whole_TD - token).abs().sum(-1).argmin()) for token in part_TD]
        assert torch.equal(whole_TD[places], part_TD)
        assert places[:prefix] == list(range(prefix)) and places == sorted(set(places))
    part.sum().backward()
    assert embeddings.patch_embeddings.projection.weight.grad.abs().sum() > 0


def test_share_of_zero_does_nothing(classifier: Callable) -> None:
    for family in ("vit", "resnet"):
        model = classifier(family).model
        drop_patches(model, 0.0)
        assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("family", ["swin", "beit", "convnext", "resnet"])
def test_families_that_need_all_patches(family: str, classifier: Callable) -> None:
    with pytest.raises(InputError, match=rf"^model\.patch_drop: {family} needs all patches"):
        drop_patches(classifier(family).model, 0.5)


@pytest.mark.parametrize("family", TAKES_OTHER_SIZES)
def test_low_resolution(family: str, classifier: Callable, inputs: Callable) -> None:
    """Images of half the size run and train all weights; the logits of full-size images do not change."""
    plain = classifier(family, dropout=0.0).model.eval()
    pixels = torch.nn.functional.interpolate(inputs(family)["pixel_values"], scale_factor=2)
    if family in ("vit", "deit"):
        pixels = inputs(family)["pixel_values"]
    model = copy.deepcopy(plain)
    shrink = shrink_for(model, pixels.shape[-1] // 2)
    if family in ("convnext", "resnet"):
        shrink = type(shrink)(shrink.size, 8)
    low = shrink(pixels)
    assert low.shape == (2, 3, pixels.shape[-2] // 2, pixels.shape[-1] // 2)
    with torch.no_grad():
        assert torch.equal(model(pixel_values=pixels).logits, plain(pixel_values=pixels).logits)
    model.train()(pixel_values=low).logits.sum().backward()
    lacking = [n for n, p in model.named_parameters() if p.grad is None and "mask_token" not in n]
    assert not lacking


def test_shrunk_images_are_means(classifier: Callable) -> None:
    shrink = shrink_for(classifier("vit").model, 16)
    pixels = torch.arange(32.0).repeat(1, 3, 32, 1)
    low = shrink(pixels)
    # A triangular filter of four columns around the center of each new pixel.
    assert low[0, 0, 8, 4:12] == pytest.approx(torch.arange(4, 12) * 2 + 0.5)
    assert shrink.shape(32, 48) == (16, 24)
    assert shrink_for(classifier("vit").model, 21).shape(32, 32) == (24, 24)


def test_low_resolution_must_be_low(classifier: Callable) -> None:
    with pytest.raises(InputError, match=r"^data\.low_resolution: 30 is 32x32 in whole patches, expected less than"):
        shrink_for(classifier("vit").model, 30).shape(32, 32)


def test_families_of_one_size(classifier: Callable) -> None:
    with pytest.raises(InputError, match=r"^data\.low_resolution: swin takes images of one size only"):
        shrink_for(classifier("swin").model, 16)
