"""Geometric image operations. Every image keeps its size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np

from hf_finetune.augmentation.image.base import Draw, EachImage, GrayLevel, draw_box, draw_symmetric
from hf_finetune.augmentation.operations import Graded
from hf_finetune.errors import InputError
from hf_finetune.utils.config import Probability, between, configclass

if TYPE_CHECKING:
    import torch

Interpolation = Literal["nearest", "bilinear"]


@configclass
class Crop(EachImage):
    """Pad the image, and crop it back to its size at a random place."""

    padding: Annotated[int, between(0, 512)] = 4
    """Pixels of padding on every side, 0 to 512."""
    frame: Literal["constant", "reflect"] = "constant"
    """Content of the padding. constant: one gray level; reflect: the image mirrored at its edges."""
    fill: GrayLevel = 0
    """Gray level of constant padding, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from torchvision.transforms.v2 import functional as F

        from hf_finetune.augmentation.image.kernels import translate

        height, width = image_CHW.shape[1:]
        if self.frame == "constant":
            x, y = (int(r.integers(-self.padding, self.padding + 1)) for _ in range(2))
            return translate(image_CHW, x, y, self.fill)
        # Reflection reaches no further than the opposite edge.
        right, down = (min(self.padding, side - 1) for side in (width, height))
        padded = F.pad(image_CHW, [right, down, right, down], padding_mode="reflect")
        left, top = int(r.integers(2 * right + 1)), int(r.integers(2 * down + 1))
        return padded[:, top : top + height, left : left + width]


@configclass
class ResizedCrop(Graded, EachImage):
    """Crop a part of random area and aspect ratio, and resize it to the image's size (arXiv:1409.4842)."""

    min_scale: Annotated[float, between(1e-4, 1)] = 0.08
    """Smallest area of the crop as a share of the image, above 0, up to 1."""
    max_scale: Annotated[float, between(1e-4, 1)] = 1.0
    """Largest area of the crop as a share of the image, up to 1."""
    ratio: Annotated[float, between(1, 10)] = 4 / 3
    """Largest aspect ratio of the crop relative to the image's own, 1 to 10; the smallest is its inverse."""
    p: Probability = 1.0
    """Probability of each image."""
    limits: ClassVar[tuple[str, str]] = ("min_scale", "max_scale")
    by_strength: ClassVar[dict[str, tuple[float, float]]] = {"min_scale": (1.0, 0.1)}

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from torchvision.transforms.v2 import functional as F

        height, width = image_CHW.shape[1:]
        box = self.box(height, width, r)
        if box[2:] == (height, width):
            return image_CHW
        return F.resized_crop(image_CHW, *box, [height, width], antialias=True)

    def box(self, height: int, width: int, r: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw the crop of an image of this size: top, left, height and width."""

        def draw_sides() -> tuple[int, int]:
            scale = math.sqrt(r.uniform(self.min_scale, self.max_scale))
            stretch = math.exp(r.uniform(-1, 1) * math.log(self.ratio) / 2)
            return max(1, round(height * scale / stretch)), max(1, round(width * scale * stretch))

        return draw_box((height, width), draw_sides, r) or (0, 0, height, width)


@configclass
class Flip(Graded, EachImage):
    """Flip the image."""

    p: Probability = 0.5
    """Probability of each image."""
    direction: Literal["horizontal", "vertical"] = "horizontal"
    """horizontal: left to right; vertical: top to bottom."""
    by_strength: ClassVar[dict[str, tuple[float, float]]] = {"p": (0.0, 0.5)}

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        return image_CHW.flip(-1 if self.direction == "horizontal" else -2)


@configclass
class Rotate(EachImage):
    """Rotate the image about its center."""

    degrees: Annotated[float, between(0, 180)] = 15.0
    """Largest angle in either direction, 0 to 180."""
    draw: Draw = "uniform"
    """uniform: any angle up to `degrees`, in either direction; ends: `degrees` in a random direction."""
    interpolation: Interpolation = "bilinear"
    """Interpolation between pixels: nearest or bilinear."""
    fill: GrayLevel = 0
    """Gray level of the area outside the image, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from hf_finetune.augmentation.image.kernels import affine

        angle = draw_symmetric(r, self.degrees, self.draw)
        return affine(image_CHW, self.interpolation, self.fill, angle=angle)


@configclass
class Scale(Graded, EachImage):
    """Zoom the image in or out, about its center."""

    smallest: Annotated[float, between(0.05, 20)] = 0.8
    """Smallest zoom factor, 0.05 to 20; 1 leaves the image unchanged."""
    largest: Annotated[float, between(0.05, 20)] = 1.25
    """Largest zoom factor, 0.05 to 20. The factor is drawn log-uniformly."""
    interpolation: Interpolation = "bilinear"
    """Interpolation between pixels: nearest or bilinear."""
    fill: GrayLevel = 0
    """Gray level of the area outside the image, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""
    limits: ClassVar[tuple[str, str]] = ("smallest", "largest")
    by_strength: ClassVar[dict[str, tuple[float, float]]] = {"smallest": (1.0, 0.5), "largest": (1.0, 2.0)}

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from hf_finetune.augmentation.image.kernels import affine

        factor = math.exp(r.uniform(math.log(self.smallest), math.log(self.largest)))
        return affine(image_CHW, self.interpolation, self.fill, scale=factor)


@configclass
class Shear(EachImage):
    """Shear the image."""

    x: Annotated[float, between(0, 2)] = 0.2
    """Largest horizontal shear, in pixels per pixel of height, 0 to 2."""
    y: Annotated[float, between(0, 2)] = 0.0
    """Largest vertical shear, in pixels per pixel of width, 0 to 2; applied after the horizontal one."""
    about: Literal["centre", "corner"] = "centre"
    """The fixed point: the center (centre), or the upper left corner as in the published policies."""
    draw: Draw = "uniform"
    """uniform: any shear up to the largest, in either direction; ends: the largest in a random direction."""
    interpolation: Interpolation = "bilinear"
    """Interpolation between pixels: nearest or bilinear."""
    fill: GrayLevel = 0
    """Gray level of the area outside the image, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from hf_finetune.augmentation.image.kernels import affine

        center = [0.0, 0.0] if self.about == "corner" else None
        # torchvision shears along both axes at once, which differs from one after the other.
        for axis, limit in enumerate((self.x, self.y)):
            if limit > 0:
                angles = [0.0, 0.0]
                angles[axis] = math.degrees(math.atan(draw_symmetric(r, limit, self.draw)))
                image_CHW = affine(image_CHW, self.interpolation, self.fill, shear=angles, center=center)
        return image_CHW


@configclass
class Translate(EachImage):
    """Translate the image by whole pixels."""

    x: Annotated[float, between(0, 4096)] = 0.1
    """Largest horizontal distance: 0 to 1 of the width, or 0 to 4096 pixels."""
    y: Annotated[float, between(0, 4096)] = 0.1
    """Largest vertical distance: 0 to 1 of the height, or 0 to 4096 pixels."""
    unit: Literal["share", "pixels"] = "share"
    """Unit of x and y."""
    draw: Draw = "uniform"
    """uniform: any distance up to the largest, in either direction; ends: the largest in a random direction."""
    fill: GrayLevel = 0
    """Gray level of the area outside the image, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def __post_init__(self) -> None:
        for name, value in (("x", self.x), ("y", self.y)):
            if self.unit == "share" and value > 1:
                raise InputError(f"Translate.{name}: expected a number from 0 to 1, or unit pixels, got {value!r}")

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from hf_finetune.augmentation.image.kernels import translate

        height, width = image_CHW.shape[1:]
        if self.unit == "pixels":
            height = width = 1
        x, y = (int(draw_symmetric(r, limit, self.draw)) for limit in (self.x * width, self.y * height))
        return translate(image_CHW, x, y, self.fill) if x or y else image_CHW


@configclass
class Perspective(Graded, EachImage):
    """Change the perspective. An image with a side of one pixel stays unchanged."""

    distortion: Annotated[float, between(0, 0.9)] = 0.3
    """Largest shift of each corner towards the center, as a share of half of each side, 0 to 0.9."""
    fill: GrayLevel = 0
    """Gray level of the area outside the image, 0 to 255."""
    p: Probability = 0.5
    """Probability of each image."""
    by_strength: ClassVar[dict[str, tuple[float, float]]] = {"distortion": (0.0, 0.6), "p": (1.0, 1.0)}

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from torchvision.transforms.v2 import functional as F

        from hf_finetune.augmentation.image.kernels import fill_values

        height, width = image_CHW.shape[1:]
        right, bottom = width - 1, height - 1
        corners = [[0, 0], [right, 0], [right, bottom], [0, bottom]]
        reach = np.array([width // 2, height // 2]) * self.distortion
        inwards = r.integers(0, reach.astype(int) + 1, size=(4, 2))
        if not inwards.any() or min(height, width) < 2:
            return image_CHW
        towards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        moved = (np.array(corners) + inwards * towards).tolist()
        return F.perspective(image_CHW, corners, moved, fill=fill_values(self.fill))


GeometricOperation = Flip | Crop | ResizedCrop | Rotate | Scale | Shear | Translate | Perspective
