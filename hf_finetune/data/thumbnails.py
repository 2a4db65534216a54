"""Small copies of images, for the linear baseline and the parity check. Those of large images are made where these are
decoded anyway."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_finetune.data.image_decoding import EncodedImage, decode, reduced

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 16
"""Side of a thumbnail in pixels."""
LARGE_PIXELS = 1_000_000
"""To decode a smaller image again takes no time."""
COPY_PIXELS = 250_000
"""Most pixels of a copy."""
# A thumbnail has 768 bytes, a copy up to a megabyte.
MOST_REMEMBERED, MOST_COPIES = 20_000, 64
_remembered: dict[bytes, np.ndarray] = {}
_copies: dict[bytes, Image] = {}


def thumbnail(image: EncodedImage) -> np.ndarray:
    """Return the means of the pixels, shape (SIDE, SIDE, 3), uint8.

    Raises:
        InputError: see `image_decoding.decode`.
    """
    known = _remembered.get(_identity(image)) if _remembered else None
    return _shrunk(decode(image)) if known is None else known


def small_copy(image: EncodedImage) -> Image:
    """Return the image with at most about `COPY_PIXELS` pixels, see `image_decoding.reduced`.

    Raises:
        InputError: see `image_decoding.decode`.
    """
    known = _copies.get(_identity(image)) if _copies else None
    return reduced(decode(image), COPY_PIXELS) if known is None else known


def remembering(images: Sequence[EncodedImage], pieces: Iterable[list[Image]]) -> Iterator[list[Image]]:
    """Yield decoded images, and keep thumbnails and copies of the large ones.

    Args:
        images: the encoded images, of which `pieces` has the decoded ones in the same order.
    """
    at = 0
    for piece in pieces:
        for image, decoded in zip(images[at:], piece, strict=False):
            if decoded.width * decoded.height > LARGE_PIXELS and len(_remembered) < MOST_REMEMBERED:
                _remembered[_identity(image)] = _shrunk(decoded)
                if len(_copies) < MOST_COPIES:
                    _copies[_identity(image)] = reduced(decoded, COPY_PIXELS)
        at += len(piece)
        yield piece


def _shrunk(image: Image) -> np.ndarray:
    from PIL.Image import Resampling

    return np.asarray(image.resize((SIDE, SIDE), Resampling.BOX))


def _identity(image: EncodedImage) -> bytes:
    content = image["bytes"]
    if content is None:
        assert image["path"] is not None, "checked when the row was read"
        stat = os.stat(image["path"])
        content = f"{image['path']} {stat.st_size} {stat.st_mtime_ns}".encode()
    return hashlib.blake2b(content, digest_size=16).digest()
