"""Image operations on colors. The kernels are torchvision's except for hue and solarization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np

from hf_finetune.augmentation.image.base import Draw, EachImage, draw_symmetric
from hf_finetune.augmentation.operations import Graded
from hf_finetune.utils.config import Probability, between, configclass

if TYPE_CHECKING:
    import torch


@configclass
class ColorJitter(EachImage):
    """Change brightness, contrast, saturation and hue, in random order."""

    brightness: Probability = 0.3
    """Largest deviation from 1 of the factor on all values, 0 to 1. A factor of 0 gives black."""
    contrast: Probability = 0.3
    """Largest deviation from 1 of the factor on differences from the mean gray, 0 to 1."""
    saturation: Probability = 0.3
    """Largest deviation from 1 of the factor on differences from gray, 0 to 1."""
    hue: Annotated[float, between(0, 0.5)] = 0.0
    """Largest rotation of the hue in either direction, 0 to 0.5 of the full circle."""
    draw: Draw = "uniform"
    """uniform: any change up to the largest, in either direction; ends: the largest change in a random direction."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from torchvision.transforms.v2 import functional as F

        from hf_finetune.augmentation.image.kernels import rotate_hue

        adjustments = (
            (self.brightness, lambda image, change: F.adjust_brightness(image, 1 + change)),
            (self.contrast, lambda image, change: F.adjust_contrast(image, 1 + change)),
            (self.saturation, lambda image, change: F.adjust_saturation(image, 1 + change)),
            (self.hue, rotate_hue),
        )
        for i in r.permutation(4):
            limit, adjust = adjustments[i]
            if limit > 0:
                image_CHW = adjust(image_CHW, draw_symmetric(r, limit, self.draw))
        return image_CHW


@configclass
class Grayscale(Graded, EachImage):
    """Convert to grayscale, in three equal channels."""

    p: Probability = 0.1
    """Probability of each image."""
    by_strength: ClassVar[dict[str, tuple[float, float]]] = {"p": (0.0, 1.0)}

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from torchvision.transforms.v2 import functional as F

        return F.rgb_to_grayscale(image_CHW, num_output_channels=3)


@configclass
class Posterize(EachImage):
    """Keep only the highest bits of every value."""

    bits: Annotated[int, between(0, 8)] = 4
    """Number of bits to keep, 0 to 8."""
    p: Probability = 0.5
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from torchvision.transforms.v2 import functional as F

        return F.posterize(image_CHW, self.bits)


@configclass
class Solarize(EachImage):
    """Invert all values from a threshold on."""

    threshold: Annotated[float, between(0, 256)] = 128.0
    """Lowest value to invert, 0 (invert everything) to 256 (nothing)."""
    p: Probability = 0.5
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from hf_finetune.augmentation.image.kernels import solarize

        return solarize(image_CHW, self.threshold)


class ByFunction(EachImage):
    """An operation that is one function of torchvision, without parameters."""

    function: ClassVar[str]
    """Its name in `torchvision.transforms.v2.functional`."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        from torchvision.transforms.v2 import functional

        return getattr(functional, self.function)(image_CHW)


@configclass
class AutoContrast(ByFunction):
    """Stretch every channel to the full range of values, 0 to 255, or 254 by rounding. A constant channel stays
    unchanged."""

    p: Probability = 0.5
    """Probability of each image."""
    function: ClassVar[str] = "autocontrast"


@configclass
class Equalize(ByFunction):
    """Equalize the histogram of every channel. A channel with fewer than 255 pixels below its brightest value stays
    unchanged."""

    p: Probability = 0.5
    """Probability of each image."""
    function: ClassVar[str] = "equalize"


@configclass
class Invert(ByFunction):
    """Invert all values: 255 minus the value."""

    p: Probability = 0.5
    """Probability of each image."""
    function: ClassVar[str] = "invert"


@configclass
class Identity(EachImage):
    """Leave the image unchanged: one of the choices of the published policies."""

    p: Probability = 1.0
    """Probability of each image; without effect."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        return image_CHW


ColorOperation = ColorJitter | Grayscale | Posterize | Solarize | AutoContrast | Equalize | Invert | Identity
