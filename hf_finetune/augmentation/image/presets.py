"""The published image policies, and a mild one for small data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from hf_finetune.augmentation.image.base import ByTorchvision, EachImage, GrayLevel, apply_in_turn
from hf_finetune.augmentation.image.color import ColorJitter, Grayscale, Solarize
from hf_finetune.augmentation.image.geometry import Crop, Flip, ResizedCrop
from hf_finetune.augmentation.image.quality import Blur
from hf_finetune.utils.config import Probability, between, configclass

if TYPE_CHECKING:
    import torch
    from torchvision.transforms import v2


@configclass
class AutoAugment(ByTorchvision):
    """Apply one of the 25 pairs of operations that AutoAugment learned (arXiv:1805.09501), drawn for each image."""

    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"
    """The data set it was learned on: imagenet, cifar10 or svhn (digits)."""
    fill: GrayLevel = 0
    """Gray level of the area outside the image, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def transform(self, fill: list[float] | None) -> v2.Transform:
        from torchvision.transforms.v2 import AutoAugment, AutoAugmentPolicy

        return AutoAugment(AutoAugmentPolicy(self.policy), fill=fill)


@configclass
class RandAugment(ByTorchvision):
    """Apply several operations of one magnitude, drawn for each image (arXiv:1909.13719)."""

    n: Annotated[int, between(0, 16)] = 2
    """Number of operations, 0 to 16."""
    m: Annotated[float, between(0, 30)] = 9.0
    """Magnitude of the operations, 0 to 30, in steps of 0.001. AutoContrast and Equalize have none."""
    fill: GrayLevel = 0
    """Gray level of the area outside the image, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def transform(self, fill: list[float] | None) -> v2.Transform:
        from torchvision.transforms.v2 import RandAugment

        # torchvision takes the number of a step. The published scale has whole ones.
        steps = 1 if self.m == int(self.m) else 1000
        return RandAugment(self.n, round(steps * self.m), num_magnitude_bins=30 * steps + 1, fill=fill)


@configclass
class TrivialAugment(ByTorchvision):
    """Apply one operation of random magnitude, up to very strong ones (TrivialAugmentWide, arXiv:2103.10158)."""

    fill: GrayLevel = 0
    """Gray level of the area outside the image, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def transform(self, fill: list[float] | None) -> v2.Transform:
        from torchvision.transforms.v2 import TrivialAugmentWide

        return TrivialAugmentWide(fill=fill)


@configclass
class AugMix(ByTorchvision):
    """Blend the image with augmented copies, each by a chain of operations (arXiv:1912.02781, without its loss)."""

    severity: Annotated[int, between(1, 10)] = 3
    """Largest strength of the operations, 1 to 10."""
    width: Annotated[int, between(1, 10)] = 3
    """Number of chains, 1 to 10."""
    depth: Annotated[int, between(0, 10)] = 0
    """Operations per chain, 1 to 10. 0: one to three, at random."""
    alpha: Annotated[float, between(0.01, 100)] = 1.0
    """Parameter of the Beta and Dirichlet distributions of the mixing weights, 0.01 to 100; larger is more even."""
    all_operations: bool = True
    """Include brightness, color, contrast and sharpness, which the paper reserves for its robustness tests."""
    fill: GrayLevel = 0
    """Gray level of the area outside the image, 0 to 255."""
    p: Probability = 1.0
    """Probability of each image."""

    def transform(self, fill: list[float] | None) -> v2.Transform:
        from torchvision.transforms.v2 import AugMix

        depth = self.depth or -1  # at random
        return AugMix(self.severity, self.width, depth, self.alpha, all_ops=self.all_operations, fill=fill)


@configclass
class ThreeAugment(EachImage):
    """Crop with 4 pixels of mirrored padding, flip, then one of grayscale, solarization and blur, then color jitter
    (DeiT III's 3-Augment with its simple random crop, arXiv:2204.07118)."""

    color_jitter: Probability = 0.3
    """Strength of the jitter of brightness, contrast and saturation, 0 to 1."""
    flip: bool = True
    """Flip every second image horizontally. Turn off where flipping changes the class: digits, letters, signs."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        one_of_three = (Grayscale(p=1.0), Solarize(128.0, p=1.0), Blur(0.1, 2.0, p=1.0))[r.integers(3)]
        colors = ColorJitter(self.color_jitter, self.color_jitter, self.color_jitter)
        return apply_in_turn([Crop(4, "reflect"), Flip(p=0.5 * self.flip), one_of_three, colors], image_CHW, r)


@configclass
class Mild(EachImage):
    """Flip, and crop a large part, resized: a start for small data sets."""

    min_scale: Annotated[float, between(1e-4, 1)] = 0.7
    """Smallest area of the crop as a share of the image, above 0, up to 1."""
    flip: bool = True
    """Flip every second image horizontally. Turn off where flipping changes the class: digits, letters, signs."""
    p: Probability = 1.0
    """Probability of each image."""

    def change(self, image_CHW: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
        return apply_in_turn([Flip(p=0.5 * self.flip), ResizedCrop(self.min_scale, ratio=1.1)], image_CHW, r)


ImagePreset = AutoAugment | RandAugment | TrivialAugment | AugMix | ThreeAugment | Mild
