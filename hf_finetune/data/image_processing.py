"""What a checkpoint's image processor makes of decoded images, in two steps: whole-number pixels, then normalized ones.

Legend: B images of a batch, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import BaseImageProcessor

from hf_finetune.data.image_decoding import EncodedImage, decode
from hf_finetune.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

# A processor that can be split in two on so many images is taken to be so on all of them.
PROBED_IMAGES = 8


def process(processor: BaseImageProcessor, images: Sequence[Image], **options: Any) -> torch.Tensor:
    """What the processor makes of images. Shape (B, 3, H, W).

    Args:
        options: of the processor, in place of its own.

    Raises:
        InputError: it makes images of several sizes of them.
    """
    try:
        return processor(list(images), return_tensors="pt", **options)["pixel_values"]
    except ValueError:
        if len(images) == 1:
            raise
        shapes = [process(processor, [image], **options).shape for image in images]
        sizes = sorted({(height, width) for *_, height, width in shapes})
        if len(sizes) == 1:
            raise
        spelled = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise InputError(
            f"the checkpoint's {type(processor).__name__} makes images of several sizes ({spelled}), and a batch has "
            "one: expected do_center_crop, or a size of height and width, in its preprocessor_config.json; or give "
            "images of one shape"
        ) from None


def resize(processor: BaseImageProcessor, images: Sequence[Image]) -> torch.Tensor:
    """What the processor makes of images before it rescales and normalizes them. Shape (B, 3, H, W).

    Raises:
        InputError: see `process`.
    """
    return process(processor, images, do_rescale=False, do_normalize=False)


def normalize(processor: BaseImageProcessor, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Rescale and normalize in one step, in the order of operations of transformers' processors. float32."""
    config = processor.to_dict()
    scale = config["rescale_factor"] if config.get("do_rescale") else 1.0
    if not config.get("do_normalize"):
        return pixels_BCHW.float() * scale
    mean, deviation = (torch.tensor(config[n])[:, None, None] * (1.0 / scale) for n in ("image_mean", "image_std"))
    return pixels_BCHW.float().sub_(mean).div_(deviation)


def splits_in_two(processor: BaseImageProcessor, images: Sequence[Image]) -> bool:
    """Whether `normalize(resize(...))` is what the processor itself gives for these images, within 1e-6.

    It is not for one that computes in floats before it is done, takes no such options, or does something of its own.
    """
    try:
        pixels, expected = resize(processor, images), process(processor, images)
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape != expected.shape:
            return False
        actual = normalize(processor, pixels)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
        return False
    return expected.dtype == torch.float32 and bool(torch.allclose(actual, expected, rtol=0, atol=1e-6))


def probe_indices(count: int) -> np.ndarray:
    """Which of so many images stand for all: up to `PROBED_IMAGES`, from the first to the last."""
    return np.linspace(0, count - 1, min(PROBED_IMAGES, count)).astype(int)


def check_augmentable(processor: BaseImageProcessor, images: Sequence[EncodedImage], field: str) -> None:
    """Refuse to change images where what operations change is not what is normalized afterwards.

    Args:
        images: encoded images, of which some are looked at.
        field: what asks for the change.

    Raises:
        InputError: naming the field and the processor; or it makes images of several sizes.
    """
    probes = [decode(images[int(i)]) for i in probe_indices(len(images))]
    process(processor, probes)
    if not splits_in_two(processor, probes):
        raise InputError(
            f"{field}: expected none for this checkpoint: the images of its {type(processor).__name__} are no whole "
            "numbers before they are normalized, and operations change those"
        )
