"""Augmentation of images: the published policies, and a mild one for small data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from hf_finetune.augmentation.image.base import EachImage, GrayLevel, through
from hf_finetune.augmentation.image.color import ColorJitter, Grayscale, Solarize
from hf_finetune.augmentation.image.geometry import Crop, Flip, ResizedCrop
from hf_finetune.augmentation.image.policies import (
    MIXED,
    RANDOM_KINDS,
    STRONGEST_LEVEL,
    STRONGEST_MAGNITUDE,
    WHOLE_KINDS,
    WIDE,
    at_magnitude,
    sub_policies,
)
from hf_finetune.augmentation.image.quality import Blur
from hf_finetune.utils.config import Probability, between, configclass

if TYPE_CHECKING:
    import torch

# AugMix draws from the first levels of ten, as AutoAugment has them.
LEVELS = 10
# Colors and sharpness are among the damages that AugMix's authors test with: they train without them.
PLAIN_KINDS = tuple(k for k in RANDOM_KINDS if k not in ("Identity", "Brightness", "Color", "Contrast", "Sharpness"))


@configclass
class AutoAugment(EachImage):
    """For each image one of the 25 pairs of operations that AutoAugment found (arXiv:1805.09501)."""

    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"
    """The data it was found on: imagenet, cifar10 or svhn (digits)."""
    fill: GrayLevel = 0
    """Gray level of what was outside, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        pairs = sub_policies(self.policy)
        steps = [
            at_magnitude(kind, STRONGEST_MAGNITUDE * level / STRONGEST_LEVEL, fill=self.fill, p=p)
            for kind, p, level in pairs[r.integers(len(pairs))]
        ]
        return through(steps, image_CHW, r)


@configclass
class RandAugment(EachImage):
    """A number of operations of one magnitude, drawn for each image (arXiv:1909.13719)."""

    n: Annotated[int, between(0, 16)] = 2
    """How many one after another, 0 to 16."""
    m: Annotated[float, between(0, STRONGEST_MAGNITUDE)] = 9.0
    """Their magnitude, 0 (nothing) to 30."""
    fill: GrayLevel = 0
    """Gray level of what was outside, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        for number in r.integers(len(RANDOM_KINDS), size=self.n):
            image_CHW = at_magnitude(RANDOM_KINDS[number], self.m, fill=self.fill).change(image_CHW, r)
        return image_CHW


@configclass
class TrivialAugment(EachImage):
    """One operation of a drawn magnitude, up to very strong ones, for each image (wide space of arXiv:2103.10158)."""

    fill: GrayLevel = 0
    """Gray level of what was outside, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        kind, magnitude = RANDOM_KINDS[r.integers(len(RANDOM_KINDS))], int(r.integers(STRONGEST_MAGNITUDE + 1))
        magnitude = STRONGEST_MAGNITUDE if kind in WHOLE_KINDS else magnitude
        return at_magnitude(kind, magnitude, WIDE, fill=self.fill).change(image_CHW, r)


@configclass
class AugMix(EachImage):
    """A mixture of an image and of chains of operations on it (arXiv:1912.02781, without its loss)."""

    severity: Annotated[int, between(1, LEVELS)] = 3
    """How strong the operations may be, 1 to 10."""
    width: Annotated[int, between(1, 10)] = 3
    """Chains, 1 to 10."""
    depth: Annotated[int, between(0, 10)] = 0
    """Operations of a chain, 1 to 10. 0: one to three, drawn."""
    alpha: Annotated[float, between(0.01, 100)] = 1.0
    """How even the shares of the mixture are, 0.01 to 100."""
    all_operations: bool = True
    """Also brightness, color, contrast and sharpness, which the paper keeps for its tests."""
    fill: GrayLevel = 0
    """Gray level of what was outside, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        from hf_finetune.augmentation.image.kernels import mixed

        changed = r.beta(self.alpha, self.alpha)
        shares = r.dirichlet([self.alpha] * self.width) * changed
        chains = [self.chain(image_CHW, r) for _ in range(self.width)]
        return mixed([image_CHW, *chains], [1 - changed, *shares])

    def chain(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image after one chain."""
        kinds = RANDOM_KINDS[1:] if self.all_operations else PLAIN_KINDS
        for _ in range(self.depth or int(r.integers(1, 4))):
            kind = kinds[r.integers(len(kinds))]
            level = STRONGEST_LEVEL if kind in WHOLE_KINDS else int(r.integers(self.severity))
            magnitude = STRONGEST_MAGNITUDE * level / STRONGEST_LEVEL
            step = at_magnitude(kind, magnitude, MIXED, interpolation="bilinear", fill=self.fill)
            image_CHW = step.change(image_CHW, r)
        return image_CHW


@configclass
class ThreeAugment(EachImage):
    """One of grayscale, solarization and blur, then a change of colors, after a crop with 4 mirrored pixels around and
    a mirror image in every second image (DeiT III's 3-Augment with its simple crop, arXiv:2204.07118)."""

    color_jitter: Probability = 0.3
    """Largest change of brightness, contrast and saturation, 0 to 1."""
    flip: bool = True
    """Mirror every second image. Off for images that a mirror makes another class of: digits, letters, signs."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        one_of_three = (Grayscale(p=1.0), Solarize(128.0, p=1.0), Blur(0.1, 2.0, p=1.0))[r.integers(3)]
        colors = ColorJitter(self.color_jitter, self.color_jitter, self.color_jitter)
        return through([Crop(4, "reflect"), Flip(p=0.5 * self.flip), one_of_three, colors], image_CHW, r)


@configclass
class Mild(EachImage):
    """A large part of an image, resized, and a mirror image in every second image: a start where few rows are at
    hand."""

    min_scale: Annotated[float, between(1e-4, 1)] = 0.7
    """Smallest part as a share of the area, above 0 to 1."""
    flip: bool = True
    """Mirror every second image. Off for images that a mirror makes another class of: digits, letters, signs."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        """An image of the same shape."""
        return through([Flip(p=0.5 * self.flip), ResizedCrop(self.min_scale, ratio=1.1)], image_CHW, r)
