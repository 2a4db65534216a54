"""Histograms of oriented gradients of images.

Legend: H height, W width, Y rows of cells, X columns of cells, O orientations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np

from hf_finetune.features.extractors.base import Computed, OfImage, TableColumns
from hf_finetune.features.extractors.color_histogram import small_pixels
from hf_finetune.utils.config import between, configclass

if TYPE_CHECKING:
    from datasets import Dataset

CELL, BLOCK = 8, 2
"""Side of a cell in pixels, and of a block in cells."""
MOST = 0.2
"""Largest entry of a normalized block, before it is normalized again (L2-Hys)."""


@configclass
class GradientHistogram(OfImage, Computed):
    """Histograms of oriented gradients, HOG (Dalal and Triggs, 2005, "Histograms of oriented gradients for human
    detection"): 9 orientations in cells of 8 by 8 pixels, in blocks of 2 by 2 cells."""

    side: Annotated[int, between(16, 256)] = 64
    """The image is made this wide and high; 64 give 1,764 features."""
    orientations: Annotated[int, between(2, 36)] = 9
    """Ranges of the angle, over 180 degrees."""

    @property
    def name(self) -> str:
        """gradients."""
        return "gradients"

    def compute(self, rows: Dataset, columns: TableColumns, cache_gb: float = 0.0) -> tuple[Sequence[str], np.ndarray]:
        """Return the histograms of each image."""
        histograms = [oriented_gradients(small_pixels(image, self.side), self.orientations) for image in rows["image"]]
        features = np.array(histograms, np.float32)
        features = features if len(rows) else np.empty((0, 0), np.float32)
        return [str(i) for i in range(features.shape[1])], features


def oriented_gradients(pixels_HWC: np.ndarray, orientations: int) -> np.ndarray:
    """Return the normalized blocks of an image, flat.

    The gradient of a pixel is that of the channel where it is largest. It votes with its length for the range of its
    angle.
    """
    levels_HWC = pixels_HWC.astype(np.float64)
    down_HWC, right_HWC = np.zeros_like(levels_HWC), np.zeros_like(levels_HWC)
    down_HWC[1:-1] = levels_HWC[2:] - levels_HWC[:-2]
    right_HWC[:, 1:-1] = levels_HWC[:, 2:] - levels_HWC[:, :-2]
    largest_HW1 = np.hypot(down_HWC, right_HWC).argmax(axis=-1)[..., None]
    down_HW, right_HW = (np.take_along_axis(each, largest_HW1, axis=-1)[..., 0] for each in (down_HWC, right_HWC))
    angle_HW = np.rad2deg(np.arctan2(down_HW, right_HW)) % 180
    range_HW = np.minimum((angle_HW / 180 * orientations).astype(np.int64), orientations - 1)
    cells_YXO = _cells(np.hypot(down_HW, right_HW), range_HW, orientations)
    height, width = (n - BLOCK + 1 for n in cells_YXO.shape[:2])
    blocks = [cells_YXO[y : y + BLOCK, x : x + BLOCK].ravel() for y in range(height) for x in range(width)]
    return np.concatenate([_normalized(np.minimum(_normalized(block), MOST)) for block in blocks])


def _cells(lengths_HW: np.ndarray, range_HW: np.ndarray, orientations: int) -> np.ndarray:
    """Return the mean votes of each cell, shape (Y, X, O)."""
    height, width = (side // CELL for side in lengths_HW.shape)
    votes = np.where(range_HW[..., None] == np.arange(orientations), lengths_HW[..., None], 0)
    votes = votes[: height * CELL, : width * CELL].reshape(height, CELL, width, CELL, orientations)
    return votes.mean(axis=(1, 3))


def _normalized(block: np.ndarray) -> np.ndarray:
    return block / np.sqrt((block**2).sum() + 1e-10)
