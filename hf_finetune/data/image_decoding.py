"""Images: from the bytes of a file to RGB pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from hf_finetune.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


class EncodedImage(TypedDict):
    bytes: bytes | None
    path: str | None


"""An image as `datasets.Image(decode=False)` gives it; without bytes, the path is read."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def decode(image: EncodedImage) -> Image:
    """RGB pixels of an image, turned as its EXIF orientation says.

    Transparency is dropped and an animation gives its first frame, as `transformers.image_utils.load_image` does;
    unlike there, 16-bit grays are scaled to 8 bits instead of clipped to white.

    Args:
        image: encoded.

    Raises:
        InputError: when it is no image or is damaged, naming its path if it has one, or without Pillow.
    """
    _require_pillow()
    try:
        return _rgb(image)
    except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
        name = image.get("path") or "an image"
        raise InputError(f"{name}: unreadable image ({_reason(error)}); replace or remove it") from error


def damage(image: EncodedImage) -> str | None:
    """Why `decode` would fail, or None; JPEG is decoded at an eighth of its size, which finds truncated files as well.

    Raises:
        InputError: without Pillow.
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
        # Grays above a byte's are 16-bit, a float image within [0, 1] is relative, the rest are bytes already.
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
        return "of no known format"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return " ".join(str(error).split()) or type(error).__name__


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise InputError("images need Pillow: pip install 'hf_finetune[vision]'") from None
