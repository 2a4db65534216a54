"""What each operation on images does, by hand and beside torchvision's own."""

import typing

import numpy as np
import pytest
import torch
from helpers.image_operations import as_bytes, gens, grey, images, off, one, outcomes
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from hf_finetune.augmentation.image.color import (
    AutoContrast,
    ColorJitter,
    Equalize,
    Grayscale,
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
from hf_finetune.augmentation.image.presets import Mild
from hf_finetune.augmentation.image.quality import Blur, Erase, Jpeg, Noise, Sharpness
from hf_finetune.augmentation.operations import ImageBatch

# By hand.


def test_flip_by_hand() -> None:
    image_CHW = grey([[1, 2, 3], [4, 5, 6]])
    assert torch.equal(one(Flip(1.0), image_CHW), grey([[3, 2, 1], [6, 5, 4]]))
    assert torch.equal(one(Flip(1.0, "vertical"), image_CHW), grey([[4, 5, 6], [1, 2, 3]]))


def test_flips_are_as_frequent_as_p_says() -> None:
    image_CHW, count = grey([[0, 255]]), 2000
    flipped = Flip(0.3)(ImageBatch(image_CHW.expand(count, -1, -1, -1)), gens(count)).pixels[:, 0, 0, 0] == 255
    # Four standard deviations: 4 * sqrt(0.3 * 0.7 / 2000).
    assert abs(float(flipped.float().mean()) - 0.3) < 0.041


def test_translate_by_hand() -> None:
    image_CHW = grey([[1, 2, 3, 4]])
    either = as_bytes(grey([[9, 1, 2, 3]]), grey([[2, 3, 4, 9]]))
    assert outcomes(Translate(0.25, 0, draw="ends", fill=9), image_CHW) == either
    assert outcomes(Translate(1, 0, "pixels", "ends", 9), image_CHW) == either
    assert outcomes(Translate(100, 0, "pixels", "ends", 9), image_CHW) == as_bytes(grey([[9, 9, 9, 9]]))
    upright = grey([[1], [2]])
    assert outcomes(Translate(0, 0.5, draw="ends"), upright) == as_bytes(grey([[0], [1]]), grey([[2], [0]]))


def test_translate_draws_every_distance() -> None:
    image_CHW = grey([[1, 2, 3, 4]])
    actual = outcomes(Translate(2.99, 0, "pixels"), image_CHW, draws=200)
    assert actual == as_bytes(*(F.affine(image_CHW, 0.0, [x, 0], 1.0, [0.0, 0.0]) for x in range(-2, 3)))


def test_crop_draws_every_place_of_torchvisions() -> None:
    image_CHW = images().pixels[0, :, :3, :4]
    for ours, theirs in (("constant", {"fill": 7}), ("reflect", {})):
        padded = F.pad(image_CHW, [1, 1, 1, 1], padding_mode=ours, **theirs)
        expected = as_bytes(*(padded[:, y : y + 3, x : x + 4] for y in range(3) for x in range(3)))
        assert outcomes(Crop(1, ours, fill=7), image_CHW, draws=200) == expected


def test_solarize_posterize_invert_by_hand() -> None:
    image_CHW = grey([[0, 127, 128, 200, 255]])
    assert torch.equal(one(Solarize(128, p=1.0), image_CHW), grey([[0, 127, 127, 55, 0]]))
    assert torch.equal(one(Posterize(2, p=1.0), image_CHW), grey([[0, 64, 128, 192, 192]]))
    assert torch.equal(one(Posterize(0, p=1.0), image_CHW), grey([[0] * 5]))
    assert torch.equal(one(Invert(1.0), image_CHW), grey([[255, 128, 127, 55, 0]]))


def test_autocontrast_by_hand() -> None:
    image_CHW = torch.stack([grey([[50, 101, 152]])[0], grey([[7, 7, 7]])[0], grey([[0, 10, 255]])[0]])
    expected = torch.tensor([[[0, 127, 255]], [[7, 7, 7]], [[0, 10, 255]]], dtype=torch.uint8)
    # torchvision cuts off: 102 * 2.4999998 is 254.
    assert off(one(AutoContrast(1.0), image_CHW), expected) <= 1


def test_equalize_by_hand() -> None:
    """16 dark values, as often as each other: 15 steps of 17 make 255."""
    dark = torch.arange(16, dtype=torch.uint8)[:, None].expand(3, 16, 17)
    assert torch.equal(one(Equalize(1.0), dark), dark * 17)


def test_color_by_hand() -> None:
    image_CHW = grey([[100, 200]])
    # Halved or half as bright again; about the mean, 150; a grey has no colour to change.
    assert outcomes(ColorJitter(0.5, 0, 0, draw="ends"), image_CHW) == as_bytes(grey([[50, 100]]), grey([[150, 255]]))
    contrast = as_bytes(grey([[125, 175]]), grey([[75, 225]]))
    # torchvision weighs the channels: (1 + 1e-4) of a grey at most, cut off.
    assert {
        tuple(np.frombuffer(b, np.uint8)[:2]) for b in outcomes(ColorJitter(0, 0.5, 0, draw="ends"), image_CHW)
    } <= {
        tuple(int(v) + d for v, d in zip(np.frombuffer(b, np.uint8)[:2], ds, strict=True))
        for b in contrast
        for ds in ((0, 0), (-1, -1), (-1, 0), (0, -1))
    }
    assert outcomes(ColorJitter(0, 0, 0, hue=0.5, draw="ends"), image_CHW) == as_bytes(image_CHW)


def test_hue_by_hand() -> None:
    red = torch.tensor([200, 50, 50], dtype=torch.uint8)[:, None, None]
    cyan, green, blue = (
        torch.tensor(v, dtype=torch.uint8)[:, None, None] for v in ([50, 200, 200], [50, 200, 50], [50, 50, 200])
    )
    assert outcomes(ColorJitter(0, 0, 0, hue=0.5, draw="ends"), red) == as_bytes(cyan)
    assert outcomes(ColorJitter(0, 0, 0, hue=1 / 3, draw="ends"), red) == as_bytes(green, blue)


def test_colors_change_in_every_order() -> None:
    image_CHW = images().pixels[0]
    every = outcomes(ColorJitter(0.5, 0.5, 0, draw="ends"), image_CHW, draws=200)
    expected = set()
    for b in (0.5, 1.5):
        for c in (0.5, 1.5):
            expected |= as_bytes(F.adjust_contrast(F.adjust_brightness(image_CHW, b), c))
            expected |= as_bytes(F.adjust_brightness(F.adjust_contrast(image_CHW, c), b))
    assert every == expected


def test_erase_covers_one_rectangle_of_the_drawn_area() -> None:
    batch = images(60, 40, 40)
    for cover in ("mean", "black", "noise"):
        after = Erase(0.1, 0.3, 2.0, cover, p=1.0)(batch, gens(60)).pixels
        for before, changed in zip(batch.pixels, after, strict=True):
            ys, xs = torch.where((before != changed).any(0))
            top, bottom, left, right = int(ys.min()), int(ys.max()) + 1, int(xs.min()), int(xs.max()) + 1
            tall, wide = bottom - top, right - left
            assert 0.08 < tall * wide / 1600 < 0.33 and 0.4 < tall / wide < 2.5
            inside = changed[:, top:bottom, left:right]
            if cover == "black":
                assert not inside.any()
            elif cover == "mean":
                mean = before.float().mean((1, 2)).round().to(torch.uint8)
                assert torch.equal(inside, mean[:, None, None].expand_as(inside))
            else:
                assert inside.float().std() > 50, "0 to 255 evenly have 74"


def test_noise_has_the_requested_deviation() -> None:
    middle = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    noise = one(Noise(0.1, 0.1, p=1.0), middle).float() - 128
    # 12,288 values: standard errors of 0.23 and 0.16.
    assert abs(noise.mean()) < 1 and abs(noise.std() - 25.5) < 0.8
    deviations = [float(one(Noise(0, 0.1, p=1.0), middle, seed).float().std()) for seed in range(30)]
    assert min(deviations) < 5 and 20 < max(deviations) < 26.5


def test_perspective_shows_a_smaller_image_about_the_same_place() -> None:
    white = torch.full((3, 40, 60), 255, dtype=torch.uint8)
    for seed in range(20):
        after = one(Perspective(0.5, fill=7, p=1.0), white, seed)
        assert torch.all(after[:, 11:29, 16:44] == 255), "corners move half of the way to the centre at most"
        assert 0.25 < (after == 255).float().mean() < 1
        assert torch.any(after == 7)


def test_mild_by_statistics() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).mul(4).expand(3, 64, 64)
    after = Mild()(ImageBatch(ramp.expand(200, -1, -1, -1)), gens(200)).pixels.float()
    mirrored = after[:, 0, 32, 0] > after[:, 0, 32, -1]
    assert 70 < int(mirrored.sum()) < 130
    observed = (after.amax((1, 2, 3)) - after.amin((1, 2, 3))) / 252
    # A part of 0.7 of the area is at least sqrt(0.7 / 1.1) wide.
    assert observed.min() > 0.75 and observed.min() < 0.9 < observed.max()


# Beside torchvision's own.


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance"),
    [
        (Flip(1.0), v2.RandomHorizontalFlip(1.0), 0),
        (Flip(1.0, "vertical"), v2.RandomVerticalFlip(1.0), 0),
        (Grayscale(1.0), v2.Grayscale(3), 0),
        (Posterize(3, p=1.0), v2.RandomPosterize(3, 1.0), 0),
        (Solarize(100.5, p=1.0), v2.RandomSolarize(100.5, 1.0), 0),
        (AutoContrast(1.0), v2.RandomAutocontrast(1.0), 0),
        (Equalize(1.0), v2.RandomEqualize(1.0), 0),
        (Invert(1.0), v2.RandomInvert(1.0), 0),
        (Jpeg(25, 25, p=1.0), v2.JPEG(25), 0),
        # Two passes of whole numbers there, one rounding here.
        (Blur(1.5, 1.5, p=1.0), v2.GaussianBlur((11, 11), (1.5, 1.5)), 1),
    ],
    ids=lambda v: type(v).__name__,
)
def test_equals_torchvision_class(ours: ImageOperation, theirs: v2.Transform, tolerance: int) -> None:
    batch = images()
    assert off(ours(batch, gens(len(batch))).pixels, theirs(batch.pixels)) <= tolerance


@pytest.mark.parametrize("fill", [0, 128])
@pytest.mark.parametrize("name", ["nearest", "bilinear"])
def test_geometry_equals_torchvision(name: typing.Any, fill: int) -> None:
    image_CHW = images().pixels[1]
    how = {"interpolation": InterpolationMode(name), "fill": [float(fill)] * 3 if fill else None}
    turned = as_bytes(*(F.rotate(image_CHW, angle, **how) for angle in (-40.0, 40.0)))
    assert outcomes(Rotate(40, "ends", name, fill), image_CHW) == turned
    # atan(0.5) in degrees.
    angle = 26.56505117707799
    for ours, shears in (
        (Shear(0.5, 0, "centre", "ends", name, fill), [[-angle, 0.0], [angle, 0.0]]),
        (Shear(0, 0.5, "centre", "ends", name, fill), [[0.0, -angle], [0.0, angle]]),
    ):
        expected = as_bytes(*(F.affine(image_CHW, 0.0, [0, 0], 1.0, shear, **how) for shear in shears))
        assert outcomes(ours, image_CHW) == expected
    scaled = as_bytes(F.affine(image_CHW, 0.0, [0, 0], 1.5, [0.0, 0.0], **how))
    assert outcomes(Scale(1.5, 1.5, name, fill), image_CHW) == scaled
    moved = as_bytes(*(F.affine(image_CHW, 0.0, [x, y], 1.0, [0.0, 0.0], **how) for x in (-3, 3) for y in (-2, 2)))
    assert outcomes(Translate(3, 2, "pixels", "ends", fill), image_CHW) == moved


@pytest.mark.parametrize(
    ("ours", "adjust"),
    [
        (ColorJitter(0.4, 0, 0, draw="ends"), F.adjust_brightness),
        (ColorJitter(0, 0.4, 0, draw="ends"), F.adjust_contrast),
        (ColorJitter(0, 0, 0.4, draw="ends"), F.adjust_saturation),
        (Sharpness(0.4, "ends", p=1.0), F.adjust_sharpness),
    ],
    ids=["brightness", "contrast", "saturation", "sharpness"],
)
def test_color_and_sharpness_equal_torchvision(ours: ImageOperation, adjust: typing.Callable) -> None:
    image_CHW = images().pixels[2]
    assert outcomes(ours, image_CHW) == as_bytes(adjust(image_CHW, 0.6), adjust(image_CHW, 1.4))


def test_hue_equals_torchvision_within_a_gray_level() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8))
    for turn in (0.1, 0.25, 0.5):
        expected = [F.adjust_hue(noise, sign * turn) for sign in (-1, 1)]
        for seed in range(4):
            actual = one(ColorJitter(0, 0, 0, turn, "ends"), noise, seed)
            assert min(off(actual, e) for e in expected) <= 1


def test_resized_crop_equals_torchvision() -> None:
    image_CHW, operation = images(1, 30, 40).pixels[0], ResizedCrop(0.2, 0.6)
    for seed in range(10):
        r = gens(1, seed)[0]
        r.random()
        top, left, tall, wide = operation.box(30, 40, r)
        assert 0.15 < tall * wide / 1200 < 0.66 and 3 / 4.4 < tall * 40 / (wide * 30) < 4.4 / 3
        expected = F.resized_crop(image_CHW, top, left, tall, wide, [30, 40], antialias=True)
        assert torch.equal(one(operation, image_CHW, seed), expected)
