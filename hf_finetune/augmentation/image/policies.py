"""What the published policies for pictures are made of: operations on one scale of magnitudes, 0 to 30.

30 is the strongest that RandAugment knows (arXiv:1909.13719). AutoAugment's levels 0 to 9 are a third of ten such steps
each: level k is the magnitude 30 k / 9.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from hf_finetune.augmentation.image.base import EachImage
from hf_finetune.augmentation.image.color import AutoContrast, Colour, Equalize, Identity, Invert, Posterize, Solarize
from hf_finetune.augmentation.image.geometry import Interpolation, Rotate, Shear, Translate
from hf_finetune.augmentation.image.quality import Sharpness
from hf_finetune.errors import InputError

PolicyKind = Literal[
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
    "Invert",
]
"""The papers' names."""
ALL_KINDS: tuple[PolicyKind, ...] = get_args(PolicyKind)
RANDOM_KINDS = tuple(kind for kind in ALL_KINDS if kind != "Invert")
"""What RandAugment and TrivialAugment draw from."""
WHOLE_KINDS = ("AutoContrast", "Equalize", "Invert")
"""Those that know no magnitude: what draws one does not use it for them."""
STRONGEST_MAGNITUDE = 30


@dataclass(frozen=True)
class Strongest:
    """What the operations do at the magnitude 30; at 0 they do nothing, in between it grows in proportion."""

    shear: float = 0.3
    """Pixels sideways for every pixel of height."""
    translate: float = 150 / 331
    """Distance, in `unit`."""
    unit: Literal["share", "pixels"] = "share"
    """Of the picture's side, or pixels."""
    degrees: float = 30.0
    """Turn."""
    factor: float = 0.9
    """Change of the factors of brightness, colour, contrast and sharpness."""
    bits: tuple[int, int] = (8, 4)
    """Bits that stay of 8: at 0 and at 30."""


RANDOM = Strongest()
"""Of AutoAugment and RandAugment."""
WIDE = Strongest(shear=0.99, translate=32, unit="pixels", degrees=135, factor=0.99, bits=(8, 2))
"""Of TrivialAugment's wide space (arXiv:2103.10158)."""
MIXED = Strongest(translate=1 / 3, bits=(4, 0))
"""Of AugMix (arXiv:1912.02781), which posterizes to 4 bits from the start."""


# A picture's operations are drawn anew for every picture: they are made once.
@lru_cache(maxsize=4096)
def at_magnitude(
    kind: PolicyKind,
    magnitude: float,
    strongest: Strongest = RANDOM,
    *,
    interpolation: Interpolation = "nearest",
    fill: int = 0,
    p: float = 1.0,
) -> EachImage:
    """One operation of a policy: what has a direction goes one way or the other, always as far.

    Searches build theirs in the same way: the larger the magnitude, the more a picture changes.

    Args:
        kind: its name in the papers.
        magnitude: 0 to 30. Of `WHOLE_KINDS`: 0 is nothing, all else the whole.
        strongest: what 30 is.
        interpolation: of what moves.
        fill: grey level of what was outside.
        p: probability of each picture.

    Raises:
        InputError: an unknown kind, or a magnitude out of range.
    """
    if kind not in ALL_KINDS:
        raise InputError(f"at_magnitude: kind: expected one of {', '.join(ALL_KINDS)}, got {kind!r}")
    if not 0 <= magnitude <= STRONGEST_MAGNITUDE:
        raise InputError(f"at_magnitude: {kind}: expected a magnitude of 0 to {STRONGEST_MAGNITUDE}, got {magnitude!r}")
    if magnitude == 0 and kind != "Posterize":
        # torchvision's Solarize inverts white at 0.
        return Identity(p=p)
    share = magnitude / STRONGEST_MAGNITUDE
    factor = strongest.factor * share
    colour = Colour(brightness=0, contrast=0, saturation=0, draw="ends", p=p)
    still = Translate(x=0, y=0, unit=strongest.unit, draw="ends", fill=fill, p=p)
    shear = Shear(x=0, y=0, about="corner", draw="ends", interpolation=interpolation, fill=fill, p=p)
    match kind:
        case "Identity":
            return Identity(p=p)
        case "ShearX":
            return dataclasses.replace(shear, x=strongest.shear * share)
        case "ShearY":
            return dataclasses.replace(shear, y=strongest.shear * share)
        case "TranslateX":
            return dataclasses.replace(still, x=strongest.translate * share)
        case "TranslateY":
            return dataclasses.replace(still, y=strongest.translate * share)
        case "Rotate":
            return Rotate(strongest.degrees * share, draw="ends", interpolation=interpolation, fill=fill, p=p)
        case "Brightness":
            return dataclasses.replace(colour, brightness=factor)
        case "Color":
            return dataclasses.replace(colour, saturation=factor)
        case "Contrast":
            return dataclasses.replace(colour, contrast=factor)
        case "Sharpness":
            return Sharpness(factor, draw="ends", p=p)
        case "Posterize":
            most, fewest = strongest.bits
            return Posterize(round(most - share * (most - fewest)), p=p)
        case "Solarize":
            return Solarize(255 * (1 - share), p=p)
        case "AutoContrast":
            return AutoContrast(p=p)
        case "Equalize":
            return Equalize(p=p)
        case "Invert":
            return Invert(p=p)


def _table(lines: str) -> tuple[tuple[tuple[PolicyKind, float, int], ...], ...]:
    """Sub-policies, one a line: name, probability and level of one operation and of the next."""
    return tuple(
        tuple((kind, float(p), int(level)) for kind, p, level in (part.split() for part in line.split("|")))
        for line in lines.strip().splitlines()
    )


IMAGENET, CIFAR10, SVHN = (
    _table(lines)
    for lines in (
        """
        Posterize    0.4 8 | Rotate       0.6 9
        Solarize     0.6 5 | AutoContrast 0.6 9
        Equalize     0.8 9 | Equalize     0.6 9
        Posterize    0.6 7 | Posterize    0.6 6
        Equalize     0.4 9 | Solarize     0.2 4
        Equalize     0.4 9 | Rotate       0.8 8
        Solarize     0.6 3 | Equalize     0.6 9
        Posterize    0.8 5 | Equalize     1.0 9
        Rotate       0.2 3 | Solarize     0.6 8
        Equalize     0.6 9 | Posterize    0.4 6
        Rotate       0.8 8 | Color        0.4 0
        Rotate       0.4 9 | Equalize     0.6 9
        Equalize     0.0 9 | Equalize     0.8 9
        Invert       0.6 9 | Equalize     1.0 9
        Color        0.6 4 | Contrast     1.0 8
        Rotate       0.8 8 | Color        1.0 2
        Color        0.8 8 | Solarize     0.8 7
        Sharpness    0.4 7 | Invert       0.6 9
        ShearX       0.6 5 | Equalize     1.0 9
        Color        0.4 0 | Equalize     0.6 9
        Equalize     0.4 9 | Solarize     0.2 4
        Solarize     0.6 5 | AutoContrast 0.6 9
        Invert       0.6 9 | Equalize     1.0 9
        Color        0.6 4 | Contrast     1.0 8
        Equalize     0.8 9 | Equalize     0.6 9
        """,
        """
        Invert       0.1 9 | Contrast     0.2 6
        Rotate       0.7 2 | TranslateX   0.3 9
        Sharpness    0.8 1 | Sharpness    0.9 3
        ShearY       0.5 8 | TranslateY   0.7 9
        AutoContrast 0.5 9 | Equalize     0.9 9
        ShearY       0.2 7 | Posterize    0.3 7
        Color        0.4 3 | Brightness   0.6 7
        Sharpness    0.3 9 | Brightness   0.7 9
        Equalize     0.6 9 | Equalize     0.5 9
        Contrast     0.6 7 | Sharpness    0.6 5
        Color        0.7 7 | TranslateX   0.5 8
        Equalize     0.3 9 | AutoContrast 0.4 9
        TranslateY   0.4 3 | Sharpness    0.2 6
        Brightness   0.9 6 | Color        0.2 8
        Solarize     0.5 2 | Invert       0.0 9
        Equalize     0.2 9 | AutoContrast 0.6 9
        Equalize     0.2 9 | Equalize     0.6 9
        Color        0.9 9 | Equalize     0.6 9
        AutoContrast 0.8 9 | Solarize     0.2 8
        Brightness   0.1 3 | Color        0.7 0
        Solarize     0.4 5 | AutoContrast 0.9 9
        TranslateY   0.9 9 | TranslateY   0.7 9
        AutoContrast 0.9 9 | Solarize     0.8 3
        Equalize     0.8 9 | Invert       0.1 9
        TranslateY   0.7 9 | AutoContrast 0.9 9
        """,
        """
        ShearX       0.9 4 | Invert       0.2 9
        ShearY       0.9 8 | Invert       0.7 9
        Equalize     0.6 9 | Solarize     0.6 6
        Invert       0.9 9 | Equalize     0.6 9
        Equalize     0.6 9 | Rotate       0.9 3
        ShearX       0.9 4 | AutoContrast 0.8 9
        ShearY       0.9 8 | Invert       0.4 9
        ShearY       0.9 5 | Solarize     0.2 6
        Invert       0.9 9 | AutoContrast 0.8 9
        Equalize     0.6 9 | Rotate       0.9 3
        ShearX       0.9 4 | Solarize     0.3 3
        ShearY       0.8 8 | Invert       0.7 9
        Equalize     0.9 9 | TranslateY   0.6 6
        Invert       0.9 9 | Equalize     0.6 9
        Contrast     0.3 3 | Rotate       0.8 4
        Invert       0.8 9 | TranslateY   0.0 2
        ShearY       0.7 6 | Solarize     0.4 8
        Invert       0.6 9 | Rotate       0.8 4
        ShearY       0.3 7 | TranslateX   0.9 3
        ShearX       0.1 6 | Invert       0.6 9
        Solarize     0.7 2 | TranslateY   0.6 7
        ShearY       0.8 4 | Invert       0.8 9
        ShearX       0.7 9 | TranslateY   0.8 3
        ShearY       0.8 5 | AutoContrast 0.7 9
        ShearX       0.7 2 | Invert       0.1 9
        """,
    )
)
"""AutoAugment's policies as published (arXiv:1805.09501, appendix); level 9 where an operation has no level."""
