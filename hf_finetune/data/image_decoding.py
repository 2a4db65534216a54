"""Decode image files to RGB pixels."""

from __future__ import annotations

import ctypes
import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import IO, TYPE_CHECKING, Any, TypedDict

import numpy as np

from hf_finetune.data.config import DEFAULT_LIMITS
from hf_finetune.data.image_paths import open_regular
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import install_command

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile


class EncodedImage(TypedDict):
    """An image as `datasets.Image(decode=False)` gives it; without bytes, the path is read."""

    bytes: bytes | None
    path: str | None


FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "PPM", "JPEG2000")
"""The formats that are read, by Pillow's names. Some of its others run programs (EPS) or are hardly maintained."""
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif"),
    *(".avifs", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpx"),
)
"""Suffixes of these formats."""


def are_image_names(values: Iterable[object]) -> bool:
    """Return whether all values that are not missing name an image by its suffix, at least one of them."""
    present = [value for value in values if value not in (None, "")]
    return len(present) > 0 and all(isinstance(v, str) and v.strip().lower().endswith(SUFFIXES) for v in present)


# A larger JPEG is decoded at a half, a quarter or an eighth of its width and height.
REDUCED_PIXELS = DEFAULT_LIMITS.image_pixels
# A file may be read in as many parts as it has so many bytes, whatever the limit.
BYTES_A_READ = 1000
# Images that are decoded together have at most this many pixels, unless it is a single one. A pixel takes 4 bytes, and
# up to 12 while it is converted.
PIXELS_AT_ONCE = 50_000_000
# The EXIF tag, and its values for images that are to be turned by a quarter.
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
# Pixels of a 16-bit gray image that are scaled at a time.
GRAY_PIXELS_AT_ONCE = 2_000_000


def decode(image: EncodedImage) -> Image:
    """Decode an image to RGB pixels, rotated by its EXIF orientation.

    Like `transformers.image_utils.load_image`, this drops transparency and takes the first frame of an animation;
    unlike it, it scales 16-bit gray values to 8 bits instead of clipping them to white.

    Raises:
        InputError: the image is damaged or of a format that is not among `FORMATS`, or Pillow is missing.
    """
    require_pillow()
    try:
        return _rgb(image)
    except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
        name = " ".join((image.get("path") or "an image").split())
        raise InputError(f"{name}: unreadable image ({reason_of(error)}); replace or remove it") from error


def decode_pieces(images: Iterable[EncodedImage]) -> Iterator[list[Image]]:
    """Decode images in pieces of at most `PIXELS_AT_ONCE` pixels; usually that is one piece.

    A piece is emptied when the next one is decoded, so that the memory never holds both.

    Raises:
        InputError: see `decode`.
    """
    piece: list[Image] = []
    pixels = 0
    for encoded in images:
        image = decode(encoded)
        size = image.width * image.height
        if piece and pixels + size > PIXELS_AT_ONCE:
            yield piece
            piece.clear()
            piece, pixels = [], 0
        piece.append(image)
        pixels += size
        del image
        # Another large image would not fit.
        if 2 * pixels > PIXELS_AT_ONCE:
            yield piece
            piece.clear()
            piece, pixels = [], 0
    if piece:
        yield piece


def decode_parallel(images: Sequence[EncodedImage], pool: ThreadPoolExecutor) -> Iterator[list[Image]]:
    """Decode images as `decode_pieces` does, those of a piece in parallel.

    Raises:
        InputError: see `decode`.
    """
    for part in pieces(images):
        piece = list(pool.map(decode, part))
        yield piece
        piece.clear()


def reduced(image: Image, pixels: int) -> Image:
    """Return an image of at most about so many pixels: the means of squares of pixels, or the image itself."""
    factor = math.isqrt(max(1, image.width * image.height // pixels))
    return image.reduce(factor) if factor > 1 else image


def upright_size(image: EncodedImage) -> tuple[int, int]:
    """Return width and height of the decoded image, from the header alone.

    An orientation that a PNG names only behind its pixels is not seen: Pillow decodes them to read it.
    """
    from PIL.Image import Image

    with open_image(image) as opened:
        reduce_jpeg(opened)
        sideways = Image.getexif(opened).get(ORIENTATION) in SIDEWAYS
        return (opened.height, opened.width) if sideways else opened.size


def count_within(images: Iterable[EncodedImage], pixels: int) -> int:
    """Return how many of the first images have at most so many pixels together. Reads their headers."""
    total = 0
    for count, image in enumerate(images):
        width, height = upright_size(image)
        total += width * height
        if total > pixels:
            return count
    return count + 1


def pieces(
    images: Sequence[EncodedImage], *, thumbnails: bool = False, most_reads: int | None = None
) -> Iterator[Sequence[EncodedImage]]:
    """Divide images into runs of at most `PIXELS_AT_ONCE` pixels, to be decoded in parallel. Reads their headers.

    Args:
        thumbnails: JPEG files are decoded as `image_checks.damage` does.
        most_reads: see `open_image`.
    """
    start, total = 0, 0
    for i, image in enumerate(images):
        try:
            with open_image(image, most_reads) as opened:
                whole = opened.width * opened.height
                reduce_jpeg(opened, thumbnail=thumbnails)
                pixels = whole if is_progressive(opened) else opened.width * opened.height
        except Exception:  # reported when it is decoded
            pixels = 0
        if total and total + pixels > PIXELS_AT_ONCE:
            yield images[start:i]
            start, total = i, 0
        total += pixels
    if len(images):
        yield images[start:]


def _rgb(image: EncodedImage) -> Image:
    from PIL import ImageOps

    with open_image(image) as opened:
        reduce_jpeg(opened)
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
        upright: Image = opened
        if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
            upright = _gray_of_8_bits(upright)
        if upright.mode == "P" and "transparency" in upright.info:
            upright = upright.convert("RGBA")
        # Without a copy, as `convert` makes one of RGB, and without the buffers of the decoder.
        return upright._new(upright.im) if upright.mode == "RGB" else upright.convert("RGB")


def _gray_of_8_bits(image: Image) -> Image:
    """Scale the gray values of an image of 16 or 32 bits, a few lines at a time."""
    from PIL import Image

    gray = np.asarray(image)
    # Values above 255 are 16-bit, floats within [0, 1] are relative, all others are 8-bit already.
    scale = 1 / 257 if image.mode != "F" and (image.mode != "I" or gray.max() > 255) else 1.0
    scale = 255.0 if image.mode == "F" and gray.max() <= 1 else scale
    scaled = np.empty(gray.shape, np.uint8)
    lines = max(1, GRAY_PIXELS_AT_ONCE // gray.shape[1])
    for start in range(0, len(gray), lines):
        # A float may be NaN or infinite.
        part = np.nan_to_num(gray[start : start + lines].astype(np.float64), posinf=1e6, neginf=0.0)
        scaled[start : start + lines] = np.clip(np.rint(part * scale), 0, 255).astype(np.uint8)
    return Image.fromarray(scaled)


def reduce_jpeg(opened: ImageFile, *, thumbnail: bool = False) -> None:
    """Let a JPEG be decoded at a half of its width and height, or less: a large one, or every one as a thumbnail."""
    if thumbnail:
        opened.draft("L", (1, 1))
        return
    if is_progressive(opened):
        return
    parts = 1
    while opened.width * opened.height > REDUCED_PIXELS * parts**2 and parts < 8:
        parts *= 2
    if parts > 1:
        # `draft` takes the smallest size that is at least this.
        opened.draft(None, (opened.width // parts, opened.height // parts))


def is_progressive(opened: ImageFile) -> bool:
    """Return whether a JPEG is decoded as a whole whatever the size of the result: the coefficients of its scans."""
    return bool(opened.info.get("progressive"))


@cache
def _formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this Pillow reads."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


class ManyReads(Exception):
    """An image file is read in too many parts."""


class CountedFile(io.BufferedReader):
    """A file that refuses to be read in more than so many parts.

    Pillow reads a header, a text, a comment, a tile at a time, in Python, again whenever an image is opened.
    """

    def __init__(self, raw: Any, most: int) -> None:
        super().__init__(raw)
        self.reads, self.most = 0, most

    def read(self, size: int | None = -1, /) -> bytes:
        """Read a part.

        Raises:
            ManyReads: it is one too many.
        """
        self.reads += 1
        if self.reads > self.most:
            raise ManyReads
        return super().read(size)


def open_image(image: EncodedImage, most_reads: int | None = None) -> ImageFile:
    """Read the header of an image.

    Args:
        most_reads: the file is a `CountedFile`, which is read in so many parts at most, or one for every `BYTES_A_READ`
            of its bytes. None: no limit.

    Raises:
        ManyReads: it is read in more parts.
        Exception: whatever a damaged file makes Pillow raise.
    """
    from PIL import Image

    raw: IO[bytes]
    if (content := image["bytes"]) is not None:
        raw = io.BytesIO(content)
    else:
        assert image["path"] is not None, "checked when the row was read"
        raw = os.fdopen(open_regular(image["path"]), "rb")
    file = raw if most_reads is None else CountedFile(raw, max(most_reads, size_of(image) // BYTES_A_READ))
    try:
        opened = Image.open(file, formats=_formats())
    except BaseException:
        file.close()
        raise
    # As if Pillow had opened the file: it closes it.
    opened._exclusive_fp = True
    return opened


def size_of(image: EncodedImage) -> int:
    """Return the size of an image file in bytes."""
    if image["bytes"] is not None:
        return len(image["bytes"])
    assert image["path"] is not None, "checked when the row was read"
    return os.stat(image["path"]).st_size


def reason_of(error: Exception) -> str:
    """Return why an image cannot be decoded, in one line."""
    from PIL import UnidentifiedImageError
    from PIL.Image import DecompressionBombError

    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, DecompressionBombError):
        return "more than 178,956,970 pixels; make it smaller"
    return " ".join(str(error).split()) or type(error).__name__


def require_pillow() -> None:
    """Load Pillow.

    Raises:
        InputError: it is missing.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise InputError(f"images need Pillow: {install_command('vision')}") from None
    _silence_libtiff()


@cache
def _silence_libtiff() -> None:
    """Keep libtiff from printing on stderr why it refuses an image: Pillow, which loads it, raises an error, too."""
    from PIL import _imaging

    with suppress(OSError, AttributeError):  # a Pillow without it, or one that holds it without its symbols
        libtiff = ctypes.CDLL(_imaging.__file__)
        for set_handler in (libtiff.TIFFSetErrorHandler, libtiff.TIFFSetWarningHandler):
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)
