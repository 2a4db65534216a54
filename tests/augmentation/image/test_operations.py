"""What every operation on images keeps to."""

import dataclasses
import pickle
import typing

import numpy as np
import pytest
import torch
import yaml
from helpers.image_operations import gens, images

from hf_finetune import ImageData
from hf_finetune.augmentation.image.color import (
    AutoContrast,
    ColorJitter,
    Equalize,
    Grayscale,
    Identity,
    Invert,
    Posterize,
    Solarize,
)
from hf_finetune.augmentation.image.geometry import (
    Crop,
    Flip,
    Perspective,
    ResizedCrop,
    Rotate,
    Scale,
    Shear,
    Translate,
)
from hf_finetune.augmentation.image.operations import ImageOperation
from hf_finetune.augmentation.image.presets import AugMix, AutoAugment, Mild, RandAugment, ThreeAugment, TrivialAugment
from hf_finetune.augmentation.image.quality import Blur, Erase, Jpeg, Noise, Sharpness
from hf_finetune.augmentation.operations import generators
from hf_finetune.errors import InputError
from hf_finetune.utils.plain import merge, to_plain

MEMBERS = typing.get_args(ImageOperation)


# One that does nothing though every image is sent through it, where there is one, and some that do much. A kind that is
# not listed is tested with its defaults.
LISTED: dict[type, tuple[ImageOperation | None, list[ImageOperation]]] = {
    Flip: (None, [Flip(), Flip(1.0, "vertical")]),
    Crop: (Crop(0), [Crop(3), Crop(3, "reflect"), Crop(40, fill=9)]),
    ResizedCrop: (ResizedCrop(1, 1, ratio=1), [ResizedCrop(), ResizedCrop(0.3, 0.4, ratio=3)]),
    Rotate: (Rotate(0), [Rotate(), Rotate(180, "ends", "nearest", 128)]),
    Scale: (Scale(1, 1), [Scale(), Scale(0.05, 20, "nearest", 3)]),
    Shear: (Shear(0, 0), [Shear(), Shear(0.3, 0.3, "corner", "ends", "nearest", 77)]),
    Translate: (Translate(0, 0), [Translate(0.5, 0.5), Translate(9, 0, "pixels", "ends", 200)]),
    Perspective: (Perspective(0, p=1.0), [Perspective(), Perspective(0.9, fill=50, p=1.0)]),
    ColorJitter: (ColorJitter(0, 0, 0, 0), [ColorJitter(), ColorJitter(1, 1, 1, 0.5, "ends")]),
    Grayscale: (None, [Grayscale(0.5)]),
    Posterize: (Posterize(8, p=1.0), [Posterize(), Posterize(0, p=1.0)]),
    Solarize: (Solarize(256, p=1.0), [Solarize(), Solarize(0, p=1.0)]),
    AutoContrast: (None, [AutoContrast()]),
    Equalize: (None, [Equalize()]),
    Invert: (None, [Invert()]),
    Identity: (Identity(), []),
    Blur: (Blur(0, 0, p=1.0), [Blur(), Blur(20, 20, p=1.0)]),
    Sharpness: (Sharpness(0, p=1.0), [Sharpness(), Sharpness(1, "ends", p=1.0)]),
    Noise: (Noise(0, 0, p=1.0), [Noise(), Noise(1, 1, p=1.0)]),
    Erase: (
        Erase(0, 0, p=1.0),
        [Erase(p=0.5), Erase(0.2, 0.9, 10, "noise", p=1.0), Erase(0.5, 1, cover="black", p=1.0)],
    ),
    Jpeg: (None, [Jpeg(), Jpeg(1, 1, p=1.0)]),
    AutoAugment: (None, [AutoAugment(), AutoAugment("cifar10"), AutoAugment("svhn", fill=128)]),
    RandAugment: (RandAugment(n=0), [RandAugment(), RandAugment(16, 30, fill=128)]),
    TrivialAugment: (None, [TrivialAugment(), TrivialAugment(fill=128)]),
    AugMix: (None, [AugMix(), AugMix(10, 2, 4, 0.5, False, 128)]),
    ThreeAugment: (None, [ThreeAugment(), ThreeAugment(1.0, False)]),
    Mild: (Mild(1.0, flip=False), [Mild(), Mild(0.1, flip=False)]),
}


CASES = {kind: LISTED.get(kind, (None, [kind()])) for kind in MEMBERS}


ACTIVE = [operation for _, some in CASES.values() for operation in some]


@pytest.mark.parametrize("kind", MEMBERS, ids=lambda k: k.__name__)
def test_every_operation_has_cases_of_its_own_kind(kind: type) -> None:
    nothing, some = CASES[kind]
    assert all(type(o) is kind for o in [*some, *([] if nothing is None else [nothing])])
    assert some or kind is Identity
    assert 0 < kind().p <= 1, "made of defaults alone"


@pytest.mark.parametrize("operation", ACTIVE, ids=repr)
def test_images_change_and_keep_size_and_type(operation: ImageOperation) -> None:
    batch = images()
    before = batch.pixels.clone()
    after = operation(batch, gens(len(batch)))
    assert (after.pixels.shape, after.pixels.dtype) == (before.shape, torch.uint8)
    assert after.labels is batch.labels and after.population is batch.population
    assert torch.equal(batch.pixels, before), "what came in stays"
    assert not torch.equal(after.pixels, before)


@pytest.mark.parametrize("operation", ACTIVE, ids=repr)
def test_a_row_depends_on_its_own_generator_alone(operation: ImageOperation) -> None:
    batch = images()
    whole = operation(batch, gens(len(batch))).pixels
    assert torch.equal(operation(batch, gens(len(batch))).pixels, whole), "again the same"
    for rows in ([3], [7, 0, 5]):
        part = operation(batch.take(np.array(rows)), generators(0, rows, 0)).pixels
        assert torch.equal(part, whole[rows]), "whatever else is in the batch"


ALWAYS_THE_SAME = [
    Flip(1.0, "vertical"),
    # A half turn is the same either way.
    Rotate(180, "ends", "nearest", 128),
    Posterize(0, p=1.0),
    Solarize(0, p=1.0),
    Blur(20, 20, p=1.0),
    Jpeg(1, 1, p=1.0),
]


RANDOM = [operation for operation in ACTIVE if operation not in ALWAYS_THE_SAME]


@pytest.mark.parametrize("operation", RANDOM, ids=repr)
@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}, {"view": 1}], ids=str)
def test_seed_epoch_and_view_give_other_images(operation: ImageOperation, other: dict[str, int]) -> None:
    batch = images(24)
    first = operation(batch, gens(24)).pixels
    assert not torch.equal(operation(batch, gens(24, **other)).pixels, first)


@pytest.mark.parametrize("nothing", [o for o, _ in CASES.values() if o is not None], ids=repr)
def test_strength_zero_changes_nothing(nothing: ImageOperation) -> None:
    batch = images()
    assert nothing.p == 1
    assert torch.equal(nothing(batch, gens(len(batch))).pixels, batch.pixels)


@pytest.mark.parametrize("kind", MEMBERS, ids=lambda k: k.__name__)
def test_p_is_a_probability_and_at_zero_nothing_changes(kind: type) -> None:
    batch, operation = images(), (CASES[kind][1] or [Identity()])[-1]
    never = dataclasses.replace(operation, p=0.0)
    assert torch.equal(never(batch, gens(len(batch))).pixels, batch.pixels)
    for wrong in (1.5, -0.1, float("nan")):
        with pytest.raises(InputError, match=rf"^{kind.__name__}\.p: expected .*, got {wrong}$"):
            dataclasses.replace(operation, p=wrong)


@pytest.mark.parametrize("operation", [*ACTIVE, Identity(0.5)], ids=repr)
def test_pickle_and_yaml_round_trip(operation: ImageOperation) -> None:
    data = ImageData("x", augment=(operation,))
    text = yaml.safe_dump(to_plain(data))
    assert merge(ImageData("x"), yaml.safe_load(text)) == data
    copy = pickle.loads(pickle.dumps(operation))
    assert copy == operation and hash(copy) == hash(operation)
    batch = images(2)
    assert torch.equal(copy(batch, gens(2)).pixels, operation(batch, gens(2)).pixels)


@pytest.mark.parametrize("operation", ACTIVE, ids=repr)
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (3, 2)], ids=str)
def test_the_smallest_images(operation: ImageOperation, size: tuple[int, int]) -> None:
    batch = images(6, *size)
    after = operation(batch, gens(6)).pixels
    assert after.shape == batch.pixels.shape and after.dtype == torch.uint8


@pytest.mark.parametrize("operation", ACTIVE, ids=repr)
def test_no_rows(operation: ImageOperation) -> None:
    assert len(operation(images().take(np.array([], dtype=int)), [])) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flip(direction="left"), "Flip.direction: expected one of horizontal, vertical, got 'left'"),
        (lambda: Crop(600), "Crop.padding: expected 0 to 512, got 600"),
        (lambda: Crop(2.5), "Crop.padding: expected a whole number, 0 to 512, got 2.5"),
        (lambda: Crop(fill=256), "Crop.fill: expected 0 to 255, got 256"),
        (lambda: ResizedCrop(0), "ResizedCrop.min_scale: expected 0.0001 to 1, got 0"),
        (lambda: ResizedCrop(0.9, 0.5), "ResizedCrop.min_scale: expected max_scale (0.5) at most, got 0.9"),
        (lambda: ResizedCrop(ratio=0.5), "ResizedCrop.ratio: expected 1 to 10, got 0.5"),
        (lambda: Rotate(181), "Rotate.degrees: expected 0 to 180, got 181"),
        (lambda: Rotate(draw="normal"), "Rotate.draw: expected one of uniform, ends, got 'normal'"),
        (lambda: Rotate(interpolation="lanczos"), "Rotate.interpolation: expected one of nearest, bilinear, got"),
        (lambda: Scale(0.01), "Scale.smallest: expected 0.05 to 20, got 0.01"),
        (lambda: Scale(1.5), "Scale.smallest: expected largest (1.25) at most, got 1.5"),
        (lambda: Shear(-0.1), "Shear.x: expected 0 to 2, got -0.1"),
        (lambda: Translate(1.5), "Translate.x: expected a number from 0 to 1, or unit pixels, got 1.5"),
        (lambda: Translate(0, 5000, "pixels"), "Translate.y: expected 0 to 4096, got 5000"),
        (lambda: Perspective(1), "Perspective.distortion: expected 0 to 0.9, got 1"),
        (lambda: ColorJitter(saturation=2), "ColorJitter.saturation: expected 0 to 1, got 2"),
        (lambda: ColorJitter(hue=0.6), "ColorJitter.hue: expected 0 to 0.5, got 0.6"),
        (lambda: Posterize(9), "Posterize.bits: expected 0 to 8, got 9"),
        (lambda: Solarize(-1), "Solarize.threshold: expected 0 to 256, got -1"),
        (lambda: Blur(3), "Blur.min_sigma: expected max_sigma (2) at most, got 3"),
        (lambda: Sharpness(1.1), "Sharpness.strength: expected 0 to 1, got 1.1"),
        (lambda: Noise(0, 2), "Noise.max_sigma: expected 0 to 1, got 2"),
        (lambda: Erase(cover="white"), "Erase.cover: expected one of mean, noise, black, got 'white'"),
        (lambda: Erase(0.5), "Erase.min_area: expected max_area (0.33) at most, got 0.5"),
        (lambda: Jpeg(0), "Jpeg.min_quality: expected 1 to 100, got 0"),
        (lambda: AutoAugment("mnist"), "AutoAugment.policy: expected one of imagenet, cifar10, svhn, got 'mnist'"),
        (lambda: RandAugment(m=31), "RandAugment.m: expected 0 to 30, got 31"),
        (lambda: RandAugment(True), "RandAugment.n: expected a whole number, 0 to 16, got True"),
        (lambda: TrivialAugment(-1), "TrivialAugment.fill: expected 0 to 255, got -1"),
        (lambda: AugMix(0), "AugMix.severity: expected 1 to 10, got 0"),
        (lambda: AugMix(alpha=0), "AugMix.alpha: expected 0.01 to 100, got 0"),
        (lambda: ThreeAugment(1.1), "ThreeAugment.color_jitter: expected 0 to 1, got 1.1"),
        (lambda: Mild(0), "Mild.min_scale: expected 0.0001 to 1, got 0"),
    ],
    ids=lambda v: v[:40] if isinstance(v, str) else "",
)
def test_out_of_range_is_refused(make: typing.Callable[[], ImageOperation], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
