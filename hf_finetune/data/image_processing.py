"""Run a checkpoint's image processor in two steps: resizing to 8-bit pixels, then normalization.

Legend: B images of a batch, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import BaseImageProcessor

from hf_finetune.data.image_decoding import EncodedImage, decode_pieces, reduced
from hf_finetune.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

# Number of images on which a processor is tested, and pixels beyond which it is tested on a reduced copy.
PROBED_IMAGES, PROBED_PIXELS = 8, 1_000_000
# Pixels that are copied at a time.
PIXELS_AT_ONCE = 2_000_000


def process(processor: BaseImageProcessor, images: Sequence[Image], **options: Any) -> torch.Tensor:
    """Process images, shape (B, 3, H, W).

    Args:
        options: override the processor's own.

    Raises:
        InputError: the processor makes images of several sizes.
    """
    large = all(image.width * image.height > PROBED_PIXELS for image in images) and _reads_tensors(processor)
    given = [_pixels(image) for image in images] if large else list(images)
    try:
        return processor(given, return_tensors="pt", **options)["pixel_values"]
    except ValueError:
        if len(images) == 1:
            raise
        parts = [process(processor, [image], **options) for image in images]
        if len({part.shape[1:] for part in parts}) == 1:
            raise
        raise _several_sizes(processor, parts) from None


def _reads_tensors(processor: BaseImageProcessor) -> bool:
    """Return whether a processor makes a tensor (3, H, W) of an image before anything else."""
    return any(base.__name__ == "TorchvisionBackend" for base in type(processor).__mro__)


def _pixels(image: Image) -> torch.Tensor:
    """Return the pixels of an image, (3, H, W), uint8, copied a few lines at a time.

    As a whole they would be copied four times through memory that they do not fit twice: 0.31 s in place of 0.15 s for
    49 megapixels.
    """
    pixels = np.empty((3, image.height, image.width), np.uint8)
    lines = max(1, PIXELS_AT_ONCE // image.width)
    for top in range(0, image.height, lines):
        part = image.crop((0, top, image.width, min(top + lines, image.height)))
        array_HWC = np.frombuffer(part.tobytes(), np.uint8).reshape(part.height, part.width, 3)
        pixels[:, top : top + lines] = array_HWC.transpose(2, 0, 1)
    return torch.from_numpy(pixels)


def blank(width: int, height: int) -> Image:
    """Return an image of one color."""
    from PIL import Image  # an optional dependency

    return Image.new("RGB", (width, height))


def _several_sizes(processor: BaseImageProcessor, parts: Iterable[torch.Tensor]) -> InputError:
    sizes = sorted({(height, width) for *_, height, width in (part.shape for part in parts)})
    spelled = ", ".join(f"{height}x{width}" for height, width in sizes)
    return InputError(
        f"the checkpoint's {type(processor).__name__} makes images of several sizes ({spelled}), but a batch needs "
        "one: set do_center_crop, or a size of height and width, in its preprocessor_config.json; or use images of "
        "one shape"
    )


def in_pieces(
    step: Callable[..., torch.Tensor], processor: BaseImageProcessor, pieces: Iterable[Sequence[Image]]
) -> torch.Tensor:
    """Decode and process the images of a batch, (B, 3, H, W), a piece at a time: large images fill the memory.

    Args:
        step: `process` or `resize`.
        pieces: see `image_decoding.decode_pieces`.

    Raises:
        InputError: see `process`.
    """
    parts = [step(processor, piece) for piece in pieces]
    if len({part.shape[1:] for part in parts}) > 1:
        raise _several_sizes(processor, parts)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def first_piece(images: Iterable[EncodedImage]) -> list[Image]:
    """Decode the first images, as many as are decoded together."""
    return next(decode_pieces(images))


def resize(processor: BaseImageProcessor, images: Sequence[Image]) -> torch.Tensor:
    """Process images without rescaling and normalization, shape (B, 3, H, W).

    Raises:
        InputError: see `process`.
    """
    return process(processor, images, do_rescale=False, do_normalize=False)


def normalize(processor: BaseImageProcessor, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Rescale and normalize in one step, float32, in the order of operations of transformers' processors."""
    config = processor.to_dict()
    scale = config["rescale_factor"] if config.get("do_rescale") else 1.0
    if not config.get("do_normalize"):
        return pixels_BCHW.float() * scale
    mean, deviation = (torch.tensor(config[n])[:, None, None] * (1.0 / scale) for n in ("image_mean", "image_std"))
    return pixels_BCHW.float().sub_(mean).div_(deviation)


def splits_in_two(processor: BaseImageProcessor, images: Sequence[Image]) -> bool:
    """Return whether `normalize(resize(...))` equals the processor's own output for these images, within 1e-6.

    It does not if the processor resizes floats, lacks the options, or has further steps.
    """
    # What a processor does depends on its settings, and takes long for large images.
    images = [reduced(image, PROBED_PIXELS) for image in images]
    try:
        pixels, expected = resize(processor, images), process(processor, images)
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape != expected.shape:
            return False
        actual = normalize(processor, pixels)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
        return False
    return expected.dtype == torch.float32 and bool(torch.allclose(actual, expected, rtol=0, atol=1e-6))


def probe_indices(count: int) -> np.ndarray:
    """Return the indices of up to `PROBED_IMAGES` evenly spaced images."""
    return np.linspace(0, count - 1, min(PROBED_IMAGES, count)).astype(int)


def check_augmentable(processor: BaseImageProcessor, images: Sequence[EncodedImage], field: str) -> None:
    """Refuse augmentation for a processor that does not normalize 8-bit pixels: operations change those.

    Args:
        images: encoded images, of which a few are tested.
        field: the field that requests the augmentation.

    Raises:
        InputError: naming the field and the processor; or it makes images of several sizes.
    """
    probes = first_piece(images[int(i)] for i in probe_indices(len(images)))
    process(processor, probes)
    if not splits_in_two(processor, probes):
        raise InputError(
            f"{field}: expected none for this checkpoint: its {type(processor).__name__} gives no 8-bit pixels before "
            "it normalizes them, and augmentation changes those"
        )
