"""Check images: one color, too small; and compute their sizes and thumbnails for other checks.

Legend: N rows, F features.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import numpy as np

from hf_finetune.data.image_decoding import EncodedImage, decode, pieces
from hf_finetune.doctor.examples import Examples
from hf_finetune.doctor.findings import Finding, Suspect, diagnose
from hf_finetune.doctor.texts import Statistics
from hf_finetune.utils.console import Progress

# Largest range of each channel, in levels of 255, of an image of one color.
ONE_COLOR = 3
# A tiny image has a shorter side below SMALL pixels, or below this share of the median.
SMALL, TINY_SHARE = 8, 0.25
# Side of the thumbnails that are compared; images that are decoded at a time.
SIDE, AT_A_TIME = 12, 64


@dataclass(frozen=True)
class ImageFacts:
    """Properties of all images."""

    sizes_N2: np.ndarray
    """Width and height in pixels."""
    one_color_N: np.ndarray
    """Whether all pixels have one color."""
    thumbnails_NF: np.ndarray
    """Pixels of the thumbnails, uint8."""

    @property
    def sizes(self) -> list[list[str]]:
        """The size of each image, as a mark for `classes.find_telltales`."""
        return [[f"{width} x {height} pixels"] for width, height in self.sizes_N2]


def decode_images(examples: Examples) -> ImageFacts:
    """Decode all images, and count them."""
    rows = len(examples)
    sizes, one_color = np.empty((rows, 2), np.int64), np.empty(rows, bool)
    thumbnails = np.empty((rows, SIDE * SIDE * 3), np.uint8)
    with (
        ThreadPoolExecutor() as pool,
        Progress("decode the images", total=rows, unit="image") as bar,
    ):
        for start in range(0, rows, AT_A_TIME):
            part = slice(start, start + AT_A_TIME)
            images = examples.images(start, min(start + AT_A_TIME, rows))
            facts = [fact for piece in pieces(images) for fact in pool.map(_facts, piece)]
            sizes[part], one_color[part], thumbnails[part] = zip(*facts, strict=True)
            bar.update(len(facts))
    return ImageFacts(sizes, one_color, thumbnails)


def _facts(encoded: EncodedImage) -> tuple[tuple[int, int], bool, np.ndarray]:
    from PIL import Image

    image = decode(encoded)
    # One pair per channel: the decoded image is RGB.
    extrema = cast("tuple[tuple[int, int], ...]", image.getextrema())
    one_color = all(most - least <= ONE_COLOR for least, most in extrema)
    return image.size, one_color, np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()


def examine_images(facts: ImageFacts) -> tuple[list[Finding], Statistics]:
    """Check images, and return findings and the statistics of their sizes."""
    shorter_N = facts.sizes_N2.min(axis=1)
    rows, usual = len(shorter_N), float(np.median(shorter_N))
    one_color = [Suspect(i, "one color") for i in np.flatnonzero(facts.one_color_N).tolist()]
    tiny = np.flatnonzero(shorter_N < max(SMALL, TINY_SHARE * usual)).tolist()
    tiny_suspects = [Suspect(i, "{} x {} pixels".format(*facts.sizes_N2[i])) for i in tiny]
    findings = [diagnose("one_colour", rows, one_color), diagnose("tiny_pictures", rows, tiny_suspects, usual=usual)]
    quantiles = map(float, np.quantile(shorter_N, (0, 0.5, 1)))
    return findings, {"shorter_side": dict(zip(("least", "median", "most"), quantiles, strict=True))}
