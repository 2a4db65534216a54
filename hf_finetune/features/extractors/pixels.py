"""The pixels of small copies of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_finetune.features.extractors.base import Computed, OfImage, TableColumns
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


@configclass
class Pixels(OfImage, Computed):
    """The pixels of images of 16 by 16, standardized by the training rows."""

    @property
    def name(self) -> str:
        """pixels."""
        return "pixels"

    def compute(self, rows: Dataset, columns: TableColumns, cache_gb: float = 0.0) -> tuple[Sequence[str], np.ndarray]:
        """Return the pixels of each image, from 0 to 255."""
        import numpy as np

        from hf_finetune.data.thumbnails import SIDE, thumbnail

        pixels = np.empty((len(rows), SIDE * SIDE * 3), dtype=np.float32)
        for row, image in enumerate(rows["image"]):
            pixels[row] = thumbnail(image).ravel()
        return [str(i) for i in range(pixels.shape[1])], pixels
