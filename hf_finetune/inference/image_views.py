"""Images decoded once and augmented several times, for `augmentation.test_time`.

Legend: N images, B images of a batch, H height, W width.
"""

from collections.abc import Sequence
from typing import Any

import torch

from hf_finetune.augmentation.test_time import SeveralViews
from hf_finetune.data.image_cache import IMAGES_AT_A_TIME
from hf_finetune.data.image_decoding import EncodedImage
from hf_finetune.data.image_processing import check_augmentable
from hf_finetune.data.inputs import EpochRows, ImageInputs


def decode_images(inputs: ImageInputs, images: Sequence[EncodedImage]) -> torch.Tensor:
    """Return images before rescaling and normalization: (N, 3, H, W), uint8.

    Raises:
        InputError: the processor returns floats at this point, or images of several sizes.
    """
    check_augmentable(inputs.processor, images, "--augment")
    parts = [inputs.pixels(images[i : i + IMAGES_AT_A_TIME]) for i in range(0, len(images), IMAGES_AT_A_TIME)]
    return torch.cat(parts)


class ImageView(EpochRows):
    """One view of decoded images for a torch DataLoader, augmented as they are read.

    Args:
        pixels_NCHW: uint8.
        rows: index of each image in the source.
        view: index of the view; 0 is the unchanged images.
    """

    def __init__(self, pixels_NCHW: torch.Tensor, rows: Sequence[int], views: SeveralViews, view: int) -> None:
        self.pixels, self.rows, self.views, self.view = pixels_NCHW, rows, views, view

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return a batch for `ImageInputs.collate`."""
        pixels_BCHW = self.pixels[list(indices)]
        if self.view:
            pixels_BCHW = self.views.pixels(pixels_BCHW, [self.rows[i] for i in indices], self.view)
        return {"pixels": pixels_BCHW}
