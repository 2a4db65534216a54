"""Augmentation of images: their colors. Kernels are torchvision's but for the hue and the threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

import numpy as np

from hf_finetune.augmentation.image.base import Draw, EachImage, either_way
from hf_finetune.augmentation.operations import Graded
from hf_finetune.utils.config import Probability, between, configclass

if TYPE_CHECKING:
    import torch


@configclass
class ColorJitter(EachImage):
    """Change brightness, contrast, saturation and hue, in an order drawn anew for every image."""

    brightness: Probability = 0.3
    """Largest change of the factor on all values either way, 0 to 1. At a factor of 0 everything is black."""
    contrast: Probability = 0.3
    """Largest change of the factor on what differs from the mean gray, 0 to 1."""
    saturation: Probability = 0.3
    """Largest change of the factor on what differs from gray, 0 to 1."""
    hue: Annotated[float, between(0, 0.5)] = 0.0
    """Furthest turn of the hues either way, 0 to 0.5 of the full circle."""
    draw: Draw = "uniform"
    """uniform: any change up to the largest either way; ends: the largest, one way or the other."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        from torchvision.transforms.v2 import functional as F

        from hf_finetune.augmentation.image.kernels import hue_turned

        for which in r.permutation(4):
            most = (self.brightness, self.contrast, self.saturation, self.hue)[which]
            if most == 0:
                continue
            change = either_way(r, most, self.draw)
            match which:
                case 0:
                    image_CHW = F.adjust_brightness(image_CHW, 1 + change)
                case 1:
                    image_CHW = F.adjust_contrast(image_CHW, 1 + change)
                case 2:
                    image_CHW = F.adjust_saturation(image_CHW, 1 + change)
                case 3:
                    image_CHW = hue_turned(image_CHW, change)
        return image_CHW


@configclass
class Grayscale(Graded, EachImage):
    """Take the color out of an image."""

    p: Probability = 0.1
    """Probability of each image."""

    @classmethod
    def of_strength(cls, strength: float) -> Self:
        """See `Graded`."""
        return cls(p=strength)

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape, all three channels alike."""
        from torchvision.transforms.v2 import functional as F

        return F.rgb_to_grayscale(image_CHW, num_output_channels=3)


@configclass
class Posterize(EachImage):
    """Keep only the highest bits of every value."""

    bits: Annotated[int, between(0, 8)] = 4
    """How many of the 8, 0 to 8."""
    p: Probability = 0.5
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape, of fewer colors."""
        from torchvision.transforms.v2 import functional as F

        return F.posterize(image_CHW, self.bits)


@configclass
class Solarize(EachImage):
    """Invert the brighter values."""

    threshold: Annotated[float, between(0, 256)] = 128.0
    """Those from here on, 0 (all of them) to 256 (none)."""
    p: Probability = 0.5
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        from hf_finetune.augmentation.image.kernels import solarized

        return solarized(image_CHW, self.threshold)


@configclass
class AutoContrast(EachImage):
    """Stretch every channel so that its darkest value is 0 and its brightest 255, or 254 by rounding."""

    p: Probability = 0.5
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape; a channel of one value stays itself."""
        from torchvision.transforms.v2 import functional as F

        return F.autocontrast(image_CHW)


@configclass
class Equalize(EachImage):
    """Spread the values of every channel so that all are about as frequent."""

    p: Probability = 0.5
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape; a channel of fewer than 255 pixels below its brightest value stays itself."""
        from torchvision.transforms.v2 import functional as F

        return F.equalize(image_CHW)


@configclass
class Invert(EachImage):
    """Make a negative."""

    p: Probability = 0.5
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape, 255 less what every value was."""
        from torchvision.transforms.v2 import functional as F

        return F.invert(image_CHW)


@configclass
class Identity(EachImage):
    """Leave an image as it is: one of the choices of the published policies."""

    p: Probability = 1.0
    """Probability of each image, for nothing."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """The image itself."""
        return image_CHW
