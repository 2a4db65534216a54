"""Find damage of image files, and what would take a decoder far longer than their pixels."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hf_finetune.data.config import DEFAULT_LIMITS, DataLimits
from hf_finetune.data.image_decoding import (
    CountedFile,
    EncodedImage,
    ManyReads,
    is_progressive,
    open_image,
    reason_of,
    reduce_jpeg,
    require_pillow,
    size_of,
)

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# Pixels of these formats count so many times: their decoders take that much longer than others.
PIXELS_COUNT = {"JPEG2000": 4, "WEBP": 2, "AVIF": 2}
# Scans of a progressive JPEG for which a pixel counts once: all are decoded for each pixel. Encoders write about ten.
SCANS = 10
# A byte of a format that Pillow decodes in Python counts as so many pixels.
PIXELS_A_BYTE = 10


def damage(image: EncodedImage, limits: DataLimits = DEFAULT_LIMITS) -> str | None:
    """Return why `decode` would fail, or None. JPEG is decoded at an eighth of its size, which detects truncation too.

    Args:
        limits: an image beyond them is damaged, too.

    Raises:
        InputError: Pillow is missing.
    """
    require_pillow()
    from PIL import ImageOps

    try:
        size, most = size_of(image), limits.image_bytes
        if size > most:
            return f"{size:,} bytes, expected at most {most:,}; make it smaller or raise --data.limits.image-bytes"
        with open_image(image, limits.image_reads) as opened:
            if (reason := _beyond(opened, image, limits)) is not None:
                return reason
            reduce_jpeg(opened, thumbnail=True)
            opened.load()
            ImageOps.exif_transpose(opened, in_place=True)
    except ManyReads:
        return (
            f"more than {limits.image_reads:,} texts, comments or other parts in {size:,} bytes; save it again without "
            "them or raise --data.limits.image-reads"
        )
    except Exception as error:  # see decode
        return reason_of(error)
    return None


def _beyond(opened: ImageFile, image: EncodedImage, limits: DataLimits) -> str | None:
    """Return why an image is beyond the limits of pixels, or None."""
    reduce_jpeg(opened)
    sides = f"{opened.width:,} x {opened.height:,} pixels"
    pixels, (times, what) = opened.width * opened.height, _times(opened, image)
    most = limits.image_pixels
    if times * pixels > most:
        return (
            f"{sides}, expected at most {int(most / times):,} in total{what}; make it smaller or raise "
            "--data.limits.image-pixels"
        )
    if max(opened.size) > limits.image_ratio * min(opened.size):
        return (
            f"{sides}, expected sides of a ratio of at most {limits.image_ratio:,}; cut it into pieces or raise "
            "--data.limits.image-ratio"
        )
    return None


def _times(opened: ImageFile, image: EncodedImage) -> tuple[float, str]:
    """Return how many times a pixel of an image counts, and why, for messages."""
    from PIL import Image

    file = opened.fp
    times: float = PIXELS_COUNT.get(opened.format or "", 1)
    if times > 1:
        return times, f" of a {opened.format} image"
    if is_progressive(opened) and file is not None:
        at = file.tell()
        file.seek(0)
        scans = file.read().count(b"\xff\xda")
        file.seek(at)
        return max(1.0, scans / SCANS), f" of a progressive JPEG of {scans} scans"
    if any(tile[0] in Image.DECODERS for tile in opened.tile):
        if isinstance(file, CountedFile):
            file.most = sys.maxsize  # some of these decoders read a pixel at a time
        size = size_of(image)
        times = max(1.0, PIXELS_A_BYTE * size / (opened.width * opened.height))
        return times, f" of a {opened.format} image of {size:,} bytes, which Pillow decodes slowly"
    return 1, ""
