"""Image operations on quality: blur, sharpness, noise, occlusion, compression."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np

from hf_finetune.augmentation.image.base import Draw, EachImage, draw_box, draw_symmetric
from hf_finetune.augmentation.operations import Graded
from hf_finetune.utils.config import Probability, between, configclass

if TYPE_CHECKING:
    import torch

# A smaller blur, in pixels, changes no value: a neighbor has the weight e^-50.
SMALLEST_SIGMA = 0.1


@configclass
class Blur(Graded, EachImage):
    """Blur by a Gaussian kernel."""

    min_sigma: Annotated[float, between(0, 20)] = 0.1
    """Smallest standard deviation in pixels, 0 (none) to 20."""
    max_sigma: Annotated[float, between(0, 20)] = 2.0
    """Largest standard deviation in pixels, up to 20."""
    p: Probability = 0.5
    """Probability of each image."""
    limits: ClassVar[tuple[str, str]] = ("min_sigma", "max_sigma")
    by_strength: ClassVar[dict[str, tuple[float, float]]] = {"max_sigma": (0.1, 3.0), "p": (1.0, 1.0)}

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from hf_finetune.augmentation.image.kernels import gaussian_blur

        sigma = float(r.uniform(self.min_sigma, self.max_sigma))
        return gaussian_blur(image_CHW, sigma) if sigma > SMALLEST_SIGMA else image_CHW


@configclass
class Sharpness(EachImage):
    """Sharpen or smooth the image. The outermost pixels stay unchanged."""

    strength: Probability = 0.5
    """Largest deviation from 1 of the factor on differences from the smoothed image, 0 to 1."""
    draw: Draw = "uniform"
    """uniform: any change up to the largest, in either direction; ends: the largest in a random direction."""
    p: Probability = 0.5
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from torchvision.transforms.v2 import functional as F

        if self.strength == 0:
            return image_CHW
        return F.adjust_sharpness(image_CHW, 1 + draw_symmetric(r, self.strength, self.draw))


@configclass
class Noise(Graded, EachImage):
    """Add Gaussian noise to every value."""

    min_sigma: Probability = 0.0
    """Smallest standard deviation as a share of the range of values, 0 to 1."""
    max_sigma: Probability = 0.1
    """Largest standard deviation, up to 1."""
    p: Probability = 0.5
    """Probability of each image."""
    limits: ClassVar[tuple[str, str]] = ("min_sigma", "max_sigma")
    by_strength: ClassVar[dict[str, tuple[float, float]]] = {"max_sigma": (0.0, 0.3), "p": (1.0, 1.0)}

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from hf_finetune.augmentation.image.kernels import add_noise

        sigma = 255 * float(r.uniform(self.min_sigma, self.max_sigma))
        return add_noise(image_CHW, sigma, r) if sigma > 0 else image_CHW


@configclass
class Erase(Graded, EachImage):
    """Cover a random rectangle (random erasing, arXiv:1708.04896)."""

    min_area: Probability = 0.02
    """Smallest area as a share of the image, 0 to 1."""
    max_area: Probability = 0.33
    """Largest area as a share of the image, up to 1. 0: off."""
    ratio: Annotated[float, between(1, 10)] = 3.3
    """Largest aspect ratio of the rectangle, 1 to 10; the smallest is its inverse."""
    cover: Literal["mean", "noise", "black"] = "mean"
    """mean: the image's mean color; noise: random values; black."""
    p: Probability = 0.25
    """Probability of each image."""
    limits: ClassVar[tuple[str, str]] = ("min_area", "max_area")
    by_strength: ClassVar[dict[str, tuple[float, float]]] = {"max_area": (0.02, 0.4), "p": (1.0, 1.0)}

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        import torch

        height, width = image_CHW.shape[1:]

        def draw_sides() -> tuple[int, int]:
            area = r.uniform(self.min_area, self.max_area) * height * width
            stretch = math.exp(r.uniform(-1, 1) * math.log(self.ratio))
            return round(math.sqrt(area * stretch)), round(math.sqrt(area / stretch))

        box = draw_box((height, width), draw_sides, r)
        if box is None or 0 in box[2:]:
            return image_CHW
        top, left, tall, wide = box
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


@configclass
class Jpeg(Graded, EachImage):
    """Compress as JPEG, and decompress."""

    min_quality: Annotated[int, between(1, 100)] = 30
    """Lowest quality, 1 to 100."""
    max_quality: Annotated[int, between(1, 100)] = 95
    """Highest quality, up to 100, which is still lossy."""
    p: Probability = 0.5
    """Probability of each image."""
    limits: ClassVar[tuple[str, str]] = ("min_quality", "max_quality")
    by_strength: ClassVar[dict[str, tuple[float, float]]] = {"min_quality": (95, 10), "p": (1.0, 1.0)}

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from torchvision.transforms.v2 import functional as F

        return F.jpeg(image_CHW, int(r.integers(self.min_quality, self.max_quality + 1)))


QualityOperation = Blur | Sharpness | Noise | Erase | Jpeg
