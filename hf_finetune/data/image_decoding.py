"""Decode image files to RGB pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from hf_finetune.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


class EncodedImage(TypedDict):
    """An image as `datasets.Image(decode=False)` gives it; without bytes, the path is read."""

    bytes: bytes | None
    path: str | None


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def decode(image: EncodedImage) -> Image:
    """Decode an image to RGB pixels, rotated by its EXIF orientation.

    Like `transformers.image_utils.load_image`, this drops transparency and takes the first frame of an animation;
    unlike it, it scales 16-bit gray values to 8 bits instead of clipping them to white.

    Raises:
        InputError: the image is damaged or of an unknown format, or Pillow is missing.
    """
    _require_pillow()
    try:
        return _rgb(image)
    except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
        name = image.get("path") or "an image"
        raise InputError(f"{name}: unreadable image ({_reason(error)}); replace or remove it") from error


def damage(image: EncodedImage) -> str | None:
    """Return why `decode` would fail, or None. JPEG is decoded at an eighth of its size, which detects truncation too.

    Raises:
        InputError: Pillow is missing.
    """
    _require_pillow()
    from PIL import ImageOps

    try:
        with _open(image) as opened:
            opened.draft("L", (1, 1))
            opened.load()
            ImageOps.exif_transpose(opened)
    except Exception as error:  # see decode
        return _reason(error)
    return None


def _rgb(image: EncodedImage) -> Image:
    from PIL import Image, ImageOps

    with _open(image) as opened:
        upright = ImageOps.exif_transpose(opened)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        gray = np.asarray(upright, dtype=np.float64)
        # Values above 255 are 16-bit, floats within [0, 1] are relative, all others are 8-bit already.
        scale = 1 / 257 if upright.mode != "F" and (upright.mode != "I" or gray.max() > 255) else 1.0
        scale = 255.0 if upright.mode == "F" and gray.max() <= 1 else scale
        upright = Image.fromarray(np.clip(np.rint(gray * scale), 0, 255).astype(np.uint8))
    if upright.mode == "P" and "transparency" in upright.info:
        upright = upright.convert("RGBA")
    return upright.convert("RGB")


def _open(image: EncodedImage) -> Image:
    from PIL import Image

    if (content := image["bytes"]) is not None:
        return Image.open(io.BytesIO(content))
    assert image["path"] is not None, "checked when the row was read"
    return Image.open(image["path"])


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return " ".join(str(error).split()) or type(error).__name__


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise InputError("images need Pillow: pip install 'hf_finetune[vision]'") from None
