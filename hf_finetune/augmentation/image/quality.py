"""Augmentation of images: how well they can be seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np

from hf_finetune.augmentation.image.base import Draw, EachImage, either_way, expect_in_order
from hf_finetune.augmentation.operations import Graded
from hf_finetune.utils.config import Probability, between, configclass

if TYPE_CHECKING:
    import torch

# A blur below this many pixels changes no value: e^-50 of a neighbor's.
SMALLEST_SIGMA = 0.1
# A rectangle of drawn area and shape may not fit; after so many none is erased.
ERASE_ATTEMPTS = 10


@configclass
class Blur(Graded, EachImage):
    """Gaussian blur."""

    min_sigma: Annotated[float, between(0, 20)] = 0.1
    """Smallest standard deviation in pixels, 0 (none) to 20."""
    max_sigma: Annotated[float, between(0, 20)] = 2.0
    """Largest standard deviation in pixels, up to 20."""
    p: Probability = 0.5
    """Probability of each image."""

    def __post_init__(self) -> None:
        expect_in_order(self, "min_sigma", "max_sigma")

    @classmethod
    def of_strength(cls, strength: float) -> Self:
        """See `Graded`."""
        return cls(max_sigma=round(0.1 + 2.9 * strength, 3), p=1.0)

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        from hf_finetune.augmentation.image.kernels import blurred

        sigma = float(r.uniform(self.min_sigma, self.max_sigma))
        return blurred(image_CHW, sigma) if sigma > SMALLEST_SIGMA else image_CHW


@configclass
class Sharpness(EachImage):
    """Sharpen an image or smooth it."""

    strength: Probability = 0.5
    """Largest change of the factor on what differs from the smoothed image either way, 0 to 1."""
    draw: Draw = "uniform"
    """uniform: any change up to the largest either way; ends: the largest, one way or the other."""
    p: Probability = 0.5
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape; the outermost pixels stay."""
        from torchvision.transforms.v2 import functional as F

        if self.strength == 0:
            return image_CHW
        return F.adjust_sharpness(image_CHW, 1 + either_way(r, self.strength, self.draw))


@configclass
class Noise(Graded, EachImage):
    """Gaussian noise on every value."""

    min_sigma: Probability = 0.0
    """Smallest standard deviation, 0 to 1 of the range of values."""
    max_sigma: Probability = 0.1
    """Largest standard deviation, up to 1."""
    p: Probability = 0.5
    """Probability of each image."""

    def __post_init__(self) -> None:
        expect_in_order(self, "min_sigma", "max_sigma")

    @classmethod
    def of_strength(cls, strength: float) -> Self:
        """See `Graded`."""
        return cls(max_sigma=round(0.3 * strength, 3), p=1.0)

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        from hf_finetune.augmentation.image.kernels import with_noise

        sigma = 255 * float(r.uniform(self.min_sigma, self.max_sigma))
        return with_noise(image_CHW, sigma, r) if sigma > 0 else image_CHW


@configclass
class Erase(Graded, EachImage):
    """Cover a rectangle (random erasing, arXiv:1708.04896)."""

    min_area: Probability = 0.02
    """Smallest rectangle as a share of the image, 0 to 1."""
    max_area: Probability = 0.33
    """Largest rectangle as a share of the image, up to 1. 0: none."""
    ratio: Annotated[float, between(1, 10)] = 3.3
    """Most that one side is of the other, 1 to 10."""
    cover: Literal["mean", "noise", "black"] = "mean"
    """mean: the image's mean color; noise: every value drawn anew; black."""
    p: Probability = 0.25
    """Probability of each image."""

    def __post_init__(self) -> None:
        expect_in_order(self, "min_area", "max_area")

    @classmethod
    def of_strength(cls, strength: float) -> Self:
        """See `Graded`."""
        return cls(max_area=round(0.02 + 0.38 * strength, 3), p=1.0)

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        import torch

        height, width = image_CHW.shape[1:]
        top, left, tall, wide = self.rectangle(height, width, r)
        if tall == 0 or wide == 0:
            return image_CHW
        match self.cover:
            case "mean":
                cover = image_CHW.float().mean((1, 2), keepdim=True).round_().to(torch.uint8)
            case "noise":
                cover = torch.from_numpy(r.integers(0, 256, (3, tall, wide), dtype=np.uint8))
            case "black":
                cover = torch.zeros((), dtype=torch.uint8)
        erased = image_CHW.clone()
        erased[:, top : top + tall, left : left + wide] = cover
        return erased

    def rectangle(self, height: int, width: int, r: np.random.Generator) -> tuple[int, int, int, int]:
        """Where it is: top, left, height and width, which may be 0."""
        for _ in range(ERASE_ATTEMPTS):
            area = r.uniform(self.min_area, self.max_area) * height * width
            stretch = math.exp(r.uniform(-1, 1) * math.log(self.ratio))
            tall, wide = round(math.sqrt(area * stretch)), round(math.sqrt(area / stretch))
            if tall <= height and wide <= width:
                return int(r.integers(height - tall + 1)), int(r.integers(width - wide + 1)), tall, wide
        return 0, 0, 0, 0


@configclass
class Jpeg(Graded, EachImage):
    """What is left of an image that was kept as JPEG."""

    min_quality: Annotated[int, between(1, 100)] = 30
    """Lowest quality, 1 to 100."""
    max_quality: Annotated[int, between(1, 100)] = 95
    """Highest quality, up to 100, which still is not the image itself."""
    p: Probability = 0.5
    """Probability of each image."""

    def __post_init__(self) -> None:
        expect_in_order(self, "min_quality", "max_quality")

    @classmethod
    def of_strength(cls, strength: float) -> Self:
        """See `Graded`."""
        return cls(min_quality=round(95 - 85 * strength), p=1.0)

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        from torchvision.transforms.v2 import functional as F

        return F.jpeg(image_CHW, int(r.integers(self.min_quality, self.max_quality + 1)))
