"""Histograms of the colors of images.

Legend: H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np

from hf_finetune.data.image_decoding import EncodedImage
from hf_finetune.features.extractors.base import Computed, OfImage, TableColumns
from hf_finetune.utils.config import between, configclass

if TYPE_CHECKING:
    from datasets import Dataset

SIDE = 64
"""Side of the image whose pixels are counted."""


@configclass
class ColorHistogram(OfImage, Computed):
    """The share of the pixels of each color, of red, green and blue together."""

    bins: Annotated[int, between(2, 16)] = 4
    """Ranges of each channel; 4 give 64 features."""

    @property
    def name(self) -> str:
        """colors."""
        return "colors"

    def compute(self, rows: Dataset, columns: TableColumns, cache_gb: float = 0.0) -> tuple[Sequence[str], np.ndarray]:
        """Return the histogram of each image."""
        shares = [color_shares(small_pixels(image, SIDE), self.bins) for image in rows["image"]]
        steps = range(self.bins)
        names = [f"{r}-{g}-{b}" for r in steps for g in steps for b in steps]
        return names, np.array(shares, np.float32).reshape(len(rows), self.bins**3)


def small_pixels(image: EncodedImage, side: int) -> np.ndarray:
    """Return an image of `side` by `side`, by means of its pixels, shape (H, W, 3), uint8."""
    from PIL.Image import Resampling

    from hf_finetune.data.thumbnails import small_copy

    return np.asarray(small_copy(image).resize((side, side), Resampling.BOX))


def color_shares(pixels_HWC: np.ndarray, bins: int) -> np.ndarray:
    """Return the share of the pixels in each of bins^3 ranges of colors, that of the darkest first."""
    steps_HWC = pixels_HWC.astype(np.int64) * bins // 256
    codes = (steps_HWC @ np.array([bins * bins, bins, 1])).ravel()
    return np.bincount(codes, minlength=bins**3) / codes.size
