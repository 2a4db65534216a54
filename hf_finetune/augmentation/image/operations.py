"""Augmentation of images: what `data.augment` can hold for them. Kernels are torchvision's, on images of uint8.

All see an image as the network's processor has resized it, before it is rescaled and normalized, and keep its size.
"""

from __future__ import annotations

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
from hf_finetune.augmentation.image.presets import AugMix, AutoAugment, Mild, RandAugment, ThreeAugment, TrivialAugment
from hf_finetune.augmentation.image.quality import Blur, Erase, Jpeg, Noise, Sharpness

ImageOperation = (
    Flip
    | Crop
    | ResizedCrop
    | Rotate
    | Scale
    | Shear
    | Translate
    | Perspective
    | ColorJitter
    | Grayscale
    | Posterize
    | Solarize
    | AutoContrast
    | Equalize
    | Invert
    | Identity
    | Blur
    | Sharpness
    | Noise
    | Erase
    | Jpeg
    | AutoAugment
    | RandAugment
    | TrivialAugment
    | AugMix
    | ThreeAugment
    | Mild
)
