"""Building blocks of the published image policies: operations on one scale of magnitudes, 0 to 30.

30 is RandAugment's strongest magnitude (arXiv:1909.13719). AutoAugment has levels 0 to 9: level k is the magnitude
30 k / 9. torchvision's own policies draw from torch's global generator, for a whole batch at once; these draw per row,
so that a view is reproducible on its own. Magnitudes and effects are torchvision's, which a test compares.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from typing import Any, Literal

from hf_finetune.augmentation.image import color
from hf_finetune.augmentation.image.geometry import Interpolation, Rotate, Shear, Translate
from hf_finetune.augmentation.image.quality import Sharpness

MAX_MAGNITUDE = 30
MAX_LEVEL = 9


@dataclass(frozen=True)
class Ranges:
    """Effect of the operations at magnitude 30. It grows linearly from nothing at 0."""

    shear: float = 0.3
    """Shear, in pixels per pixel of the other side."""
    translate: float = 150 / 331
    """Distance of a translation, in `unit`."""
    unit: Literal["share", "pixels"] = "share"
    """Share of the image's side, or pixels."""
    degrees: float = 30.0
    """Angle of a rotation."""
    factor: float = 0.9
    """Deviation from 1 of the factor on brightness, color, contrast or sharpness."""
    bits: tuple[int, int] = (8, 4)
    """Bits that Posterize keeps, at magnitudes 0 and 30."""


RAND_AUGMENT = Ranges()
"""AutoAugment and RandAugment."""
TRIVIAL_AUGMENT_WIDE = Ranges(shear=0.99, translate=32, unit="pixels", degrees=135, factor=0.99, bits=(8, 2))
"""TrivialAugment's wide space (arXiv:2103.10158)."""
AUG_MIX = Ranges(translate=1 / 3, bits=(4, 0))
"""AugMix (arXiv:1912.02781), which posterizes to 4 bits even at magnitude 0."""

KINDS: dict[str, Callable[[float, Ranges], Any]] = {
    "Identity": lambda share, top: color.Identity(),
    "ShearX": lambda share, top: Shear(top.shear * share, 0.0, "corner", "ends"),
    "ShearY": lambda share, top: Shear(0.0, top.shear * share, "corner", "ends"),
    "TranslateX": lambda share, top: Translate(top.translate * share, 0.0, top.unit, "ends"),
    "TranslateY": lambda share, top: Translate(0.0, top.translate * share, top.unit, "ends"),
    "Rotate": lambda share, top: Rotate(top.degrees * share, "ends"),
    "Brightness": lambda share, top: color.ColorJitter(top.factor * share, 0.0, 0.0, draw="ends"),
    "Color": lambda share, top: color.ColorJitter(0.0, 0.0, top.factor * share, draw="ends"),
    "Contrast": lambda share, top: color.ColorJitter(0.0, top.factor * share, 0.0, draw="ends"),
    "Sharpness": lambda share, top: Sharpness(top.factor * share, "ends"),
    "Posterize": lambda share, top: color.Posterize(round(top.bits[0] - share * (top.bits[0] - top.bits[1]))),
    "Solarize": lambda share, top: color.Solarize(255 * (1 - share)),
    "AutoContrast": lambda share, top: color.AutoContrast(),
    "Equalize": lambda share, top: color.Equalize(),
    "Invert": lambda share, top: color.Invert(),
}
"""Constructors of the operations by the papers' names, from the share of the largest magnitude. Operations with a
direction draw it, at a fixed distance."""
RANDOM_KINDS = tuple(kind for kind in KINDS if kind != "Invert")
"""The kinds that RandAugment and TrivialAugment draw from."""
UNGRADED_KINDS = ("AutoContrast", "Equalize", "Invert")
"""The kinds without a magnitude: any above 0 has the full effect."""


# Policies draw operations for every image: the cache saves their construction.
@lru_cache(maxsize=4096)
def at_magnitude(
    kind: str,
    magnitude: float,
    ranges: Ranges = RAND_AUGMENT,
    *,
    interpolation: Interpolation = "nearest",
    fill: int = 0,
    p: float = 1.0,
) -> Any:
    """Return an operation at a magnitude.

    Args:
        kind: one of `KINDS`.
        magnitude: 0 (no change) to 30.
        ranges: the effect at 30.
        interpolation: of geometric operations.
        fill: gray level of the area outside the image.
        p: probability of each image.
    """
    assert 0 <= magnitude <= MAX_MAGNITUDE, f"{kind} at {magnitude}"
    if magnitude == 0 and kind != "Posterize":
        # torchvision's Solarize inverts white even at 0.
        return color.Identity(p=p)
    operation = KINDS[kind](magnitude / MAX_MAGNITUDE, ranges)
    common = {"interpolation": interpolation, "fill": fill, "p": p}
    return replace(operation, **{f.name: common[f.name] for f in fields(operation) if f.name in common})


@cache
def sub_policies(policy: str) -> tuple[tuple[tuple[str, float, int], ...], ...]:
    """Return AutoAugment's published policy for imagenet, cifar10 or svhn (arXiv:1805.09501, appendix), by torchvision:
    pairs of (kind, probability, level); the level is 9 for kinds without one."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    return tuple(
        tuple((kind, p, MAX_LEVEL if level is None else level) for kind, p, level in pair)
        for pair in AutoAugment(AutoAugmentPolicy(policy)).policies
    )
