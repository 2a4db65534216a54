"""What the published policies for images are made of: operations on one scale of magnitudes, 0 to 30.

30 is the strongest that RandAugment knows (arXiv:1909.13719). AutoAugment's levels 0 to 9 are a third of ten such steps
each: level k is the magnitude 30 k / 9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from typing import Any, Literal

from hf_finetune.augmentation.image.color import (
    AutoContrast,
    ColorJitter,
    Equalize,
    Identity,
    Invert,
    Posterize,
    Solarize,
)
from hf_finetune.augmentation.image.geometry import Interpolation, Rotate, Shear, Translate
from hf_finetune.augmentation.image.quality import Sharpness

STRONGEST_MAGNITUDE = 30
STRONGEST_LEVEL = 9


@dataclass(frozen=True)
class Strongest:
    """What the operations do at the magnitude 30; at 0 they do nothing, in between it grows in proportion."""

    shear: float = 0.3
    """Pixels sideways for every pixel of height."""
    translate: float = 150 / 331
    """Distance, in `unit`."""
    unit: Literal["share", "pixels"] = "share"
    """Of the image's side, or pixels."""
    degrees: float = 30.0
    """Turn."""
    factor: float = 0.9
    """Change of the factors of brightness, color, contrast and sharpness."""
    bits: tuple[int, int] = (8, 4)
    """Bits that stay of 8: at 0 and at 30."""


RANDOM = Strongest()
"""Of AutoAugment and RandAugment."""
WIDE = Strongest(shear=0.99, translate=32, unit="pixels", degrees=135, factor=0.99, bits=(8, 2))
"""Of TrivialAugment's wide space (arXiv:2103.10158)."""
MIXED = Strongest(translate=1 / 3, bits=(4, 0))
"""Of AugMix (arXiv:1912.02781), which posterizes to 4 bits from the start."""

KINDS: dict[str, Callable[[float, Strongest], Any]] = {
    "Identity": lambda share, most: Identity(),
    "ShearX": lambda share, most: Shear(most.shear * share, 0.0, "corner", "ends"),
    "ShearY": lambda share, most: Shear(0.0, most.shear * share, "corner", "ends"),
    "TranslateX": lambda share, most: Translate(most.translate * share, 0.0, most.unit, "ends"),
    "TranslateY": lambda share, most: Translate(0.0, most.translate * share, most.unit, "ends"),
    "Rotate": lambda share, most: Rotate(most.degrees * share, "ends"),
    "Brightness": lambda share, most: ColorJitter(most.factor * share, 0.0, 0.0, draw="ends"),
    "Color": lambda share, most: ColorJitter(0.0, 0.0, most.factor * share, draw="ends"),
    "Contrast": lambda share, most: ColorJitter(0.0, most.factor * share, 0.0, draw="ends"),
    "Sharpness": lambda share, most: Sharpness(most.factor * share, "ends"),
    "Posterize": lambda share, most: Posterize(round(most.bits[0] - share * (most.bits[0] - most.bits[1]))),
    "Solarize": lambda share, most: Solarize(255 * (1 - share)),
    "AutoContrast": lambda share, most: AutoContrast(),
    "Equalize": lambda share, most: Equalize(),
    "Invert": lambda share, most: Invert(),
}
"""Operations by the papers' names, each at a share of the strongest magnitude. What has a direction goes one way or the
other, always as far."""
RANDOM_KINDS = tuple(kind for kind in KINDS if kind != "Invert")
"""What RandAugment and TrivialAugment draw from."""
WHOLE_KINDS = ("AutoContrast", "Equalize", "Invert")
"""Those that have no magnitude: what draws one does not use it for them."""


# An image's operations are drawn anew for every image: they are made once.
@lru_cache(maxsize=4096)
def at_magnitude(
    kind: str,
    magnitude: float,
    strongest: Strongest = RANDOM,
    *,
    interpolation: Interpolation = "nearest",
    fill: int = 0,
    p: float = 1.0,
) -> Any:
    """One operation of a policy. The larger the magnitude, the more an image changes.

    Args:
        kind: one of `KINDS`.
        magnitude: 0 to 30. Of `WHOLE_KINDS`: 0 is nothing, all else the whole.
        strongest: what 30 is.
        interpolation: of what moves.
        fill: gray level of what was outside.
        p: probability of each image.
    """
    assert 0 <= magnitude <= STRONGEST_MAGNITUDE, f"{kind} at {magnitude}"
    if magnitude == 0 and kind != "Posterize":
        # torchvision's Solarize inverts white at 0.
        return Identity(p=p)
    operation = KINDS[kind](magnitude / STRONGEST_MAGNITUDE, strongest)
    common = {"interpolation": interpolation, "fill": fill, "p": p}
    return replace(operation, **{f.name: common[f.name] for f in fields(operation) if f.name in common})


@cache
def sub_policies(policy: str) -> tuple[tuple[tuple[str, float, int], ...], ...]:
    """AutoAugment's policy for imagenet, cifar10 or svhn as published (arXiv:1805.09501, appendix): pairs of an
    operation's name, probability and level, 9 where it has none."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    return tuple(
        tuple((kind, p, STRONGEST_LEVEL if level is None else level) for kind, p, level in pair)
        for pair in AutoAugment(AutoAugmentPolicy(policy)).policies
    )
