"""Augmentation of images: where things are. Every image keeps its size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np

from hf_finetune.augmentation.image.base import Draw, EachImage, GrayLevel, either_way, expect_in_order
from hf_finetune.augmentation.operations import Graded
from hf_finetune.errors import InputError
from hf_finetune.utils.config import Probability, between, configclass

if TYPE_CHECKING:
    import torch

Interpolation = Literal["nearest", "bilinear"]
# A crop of drawn area and shape may not fit; after so many the whole image is taken.
CROP_ATTEMPTS = 10


@configclass
class Crop(EachImage):
    """Cut an image of the same size out of it and a frame around it, at random."""

    padding: Annotated[int, between(0, 512)] = 4
    """Pixels of the frame on every side, 0 to 512."""
    frame: Literal["constant", "reflect"] = "constant"
    """constant: of one gray level; reflect: the image mirrored at its edges."""
    fill: GrayLevel = 0
    """Gray level of a constant frame, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image moved by at most `padding` pixels each way."""
        from torchvision.transforms.v2 import functional as F

        from hf_finetune.augmentation.image.kernels import shifted

        height, width = image_CHW.shape[1:]
        if self.frame == "constant":
            x, y = (int(r.integers(-self.padding, self.padding + 1)) for _ in range(2))
            return shifted(image_CHW, x, y, self.fill)
        # A mirror shows no more than there is.
        right, down = (min(self.padding, side - 1) for side in (width, height))
        framed = F.pad(image_CHW, [right, down, right, down], padding_mode="reflect")
        left, top = int(r.integers(2 * right + 1)), int(r.integers(2 * down + 1))
        return framed[:, top : top + height, left : left + width]


@configclass
class ResizedCrop(Graded, EachImage):
    """Cut out a part of an image and resize it to the image's size (Inception's crop, arXiv:1409.4842)."""

    min_scale: Annotated[float, between(1e-4, 1)] = 0.08
    """Smallest part as a share of the area, above 0 to 1."""
    max_scale: Annotated[float, between(1e-4, 1)] = 1.0
    """Largest part as a share of the area, up to 1."""
    ratio: Annotated[float, between(1, 10)] = 4 / 3
    """Strongest stretch of the part's sides against each other, 1 to 10: drawn from 1/ratio to ratio of the image's
    own."""
    p: Probability = 1.0
    """Probability of each image."""

    def __post_init__(self) -> None:
        expect_in_order(self, "min_scale", "max_scale")

    @classmethod
    def of_strength(cls, strength: float) -> Self:
        """See `Graded`."""
        return cls(min_scale=round(1 - 0.9 * strength, 3))

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """A part of the image, of the same size."""
        from torchvision.transforms.v2 import functional as F

        height, width = image_CHW.shape[1:]
        top, left, tall, wide = self.part(height, width, r)
        if (tall, wide) == (height, width):
            return image_CHW
        return F.resized_crop(image_CHW, top, left, tall, wide, [height, width], antialias=True)

    def part(self, height: int, width: int, r: np.random.Generator) -> tuple[int, int, int, int]:
        """Where it is: top, left, height and width."""
        for _ in range(CROP_ATTEMPTS):
            share = math.sqrt(r.uniform(self.min_scale, self.max_scale))
            stretch = math.exp(r.uniform(-1, 1) * math.log(self.ratio) / 2)
            tall, wide = max(1, round(height * share / stretch)), max(1, round(width * share * stretch))
            if tall <= height and wide <= width:
                return int(r.integers(height - tall + 1)), int(r.integers(width - wide + 1)), tall, wide
        return 0, 0, height, width


@configclass
class Flip(Graded, EachImage):
    """Mirror an image."""

    p: Probability = 0.5
    """Probability of each image."""
    direction: Literal["horizontal", "vertical"] = "horizontal"
    """horizontal: left becomes right; vertical: top becomes bottom."""

    @classmethod
    def of_strength(cls, strength: float) -> Self:
        """See `Graded`."""
        return cls(0.5 * strength)

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        return image_CHW.flip(-1 if self.direction == "horizontal" else -2)


@configclass
class Rotate(EachImage):
    """Turn an image about its center."""

    degrees: Annotated[float, between(0, 180)] = 15.0
    """Furthest turn either way, 0 to 180."""
    draw: Draw = "uniform"
    """uniform: any angle up to `degrees` either way; ends: `degrees` one way or the other."""
    interpolation: Interpolation = "bilinear"
    """Values between pixels: nearest or bilinear."""
    fill: GrayLevel = 0
    """Gray level of what was outside, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        from hf_finetune.augmentation.image.kernels import affine

        angle = either_way(r, self.degrees, self.draw)
        return affine(image_CHW, self.interpolation, self.fill, angle=angle)


@configclass
class Scale(Graded, EachImage):
    """Show an image larger or smaller, about its center."""

    smallest: Annotated[float, between(0.05, 20)] = 0.8
    """Smallest factor on both sides, 0.05 to 20; 1 is the image as it is."""
    largest: Annotated[float, between(0.05, 20)] = 1.25
    """Largest factor, 0.05 to 20. The factor's logarithm is drawn evenly."""
    interpolation: Interpolation = "bilinear"
    """Values between pixels: nearest or bilinear."""
    fill: GrayLevel = 0
    """Gray level of what was outside, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def __post_init__(self) -> None:
        expect_in_order(self, "smallest", "largest")

    @classmethod
    def of_strength(cls, strength: float) -> Self:
        """See `Graded`."""
        return cls(smallest=1 - 0.5 * strength, largest=1 + strength)

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        from hf_finetune.augmentation.image.kernels import affine

        factor = math.exp(r.uniform(math.log(self.smallest), math.log(self.largest)))
        return affine(image_CHW, self.interpolation, self.fill, scale=factor)


@configclass
class Shear(EachImage):
    """Slant an image."""

    x: Annotated[float, between(0, 2)] = 0.2
    """Furthest sideways, in pixels for every pixel of height, 0 to 2."""
    y: Annotated[float, between(0, 2)] = 0.0
    """Furthest up or down, in pixels for every pixel of width, 0 to 2; after the one sideways."""
    about: Literal["centre", "corner"] = "centre"
    """What stays in its place: the middle (centre), or the upper left corner as in the published policies."""
    draw: Draw = "uniform"
    """uniform: any slant up to the furthest either way; ends: the furthest one way or the other."""
    interpolation: Interpolation = "bilinear"
    """Values between pixels: nearest or bilinear."""
    fill: GrayLevel = 0
    """Gray level of what was outside, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        from hf_finetune.augmentation.image.kernels import affine

        center = [0.0, 0.0] if self.about == "corner" else None
        # torchvision shears both ways at once, which is neither one after the other.
        for place, most in enumerate((self.x, self.y)):
            if most > 0:
                angles = [0.0, 0.0]
                angles[place] = math.degrees(math.atan(either_way(r, most, self.draw)))
                image_CHW = affine(image_CHW, self.interpolation, self.fill, shear=angles, center=center)
        return image_CHW


@configclass
class Translate(EachImage):
    """Move an image by whole pixels."""

    x: Annotated[float, between(0, 4096)] = 0.1
    """Furthest to the left or right: 0 to 1 of the width, or 0 to 4096 pixels."""
    y: Annotated[float, between(0, 4096)] = 0.1
    """Furthest up or down: 0 to 1 of the height, or 0 to 4096 pixels."""
    unit: Literal["share", "pixels"] = "share"
    """What x and y are counted in."""
    draw: Draw = "uniform"
    """uniform: any distance up to the furthest either way; ends: the furthest one way or the other."""
    fill: GrayLevel = 0
    """Gray level of what was outside, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def __post_init__(self) -> None:
        for name, value in (("x", self.x), ("y", self.y)):
            if self.unit == "share" and value > 1:
                raise InputError(f"Translate.{name}: expected a number from 0 to 1, or unit pixels, got {value!r}")

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        from hf_finetune.augmentation.image.kernels import shifted

        height, width = image_CHW.shape[1:]
        across, down = (width, height) if self.unit == "share" else (1, 1)
        x, y = (int(either_way(r, most * side, self.draw)) for most, side in ((self.x, across), (self.y, down)))
        return shifted(image_CHW, x, y, self.fill) if x or y else image_CHW


@configclass
class Perspective(Graded, EachImage):
    """Show an image as if it were seen at an angle."""

    distortion: Annotated[float, between(0, 0.9)] = 0.3
    """How far each corner goes towards the center at most, 0 to 0.9 of the way along both sides."""
    fill: GrayLevel = 0
    """Gray level of what was outside, 0 to 255."""
    p: Probability = 0.5
    """Probability of each image."""

    @classmethod
    def of_strength(cls, strength: float) -> Self:
        """See `Graded`."""
        return cls(round(0.6 * strength, 3), p=1.0)

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape; one of a single line of pixels stays itself."""
        from torchvision.transforms.v2 import functional as F

        from hf_finetune.augmentation.image.kernels import outside

        height, width = image_CHW.shape[1:]
        right, bottom = width - 1, height - 1
        corners = [[0, 0], [right, 0], [right, bottom], [0, bottom]]
        reach = np.array([width // 2, height // 2]) * self.distortion
        inwards = r.integers(0, reach.astype(int) + 1, size=(4, 2))
        if not inwards.any() or min(height, width) < 2:
            return image_CHW
        towards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        moved = (np.array(corners) + inwards * towards).tolist()
        return F.perspective(image_CHW, corners, moved, fill=outside(self.fill))
