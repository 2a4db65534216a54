"""Images that make a decoder take all time or memory, each six written into a folder."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from PIL import Image

Encode = Callable[[tuple[int, int, int]], bytes]


def _images(folder: Path, encode: Encode, suffix: str) -> Path:
    """Write six images of two classes, each of another color."""
    for i in range(6):
        path = folder / "images" / "ab"[i % 2] / f"{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode((9 * i, 40, 60)))
    return folder / "images"


def solid_images(folder: Path, kind: str = "PNG", megapixels: float = 0.001, **options: Any) -> Path:
    """Write six images of one color, of two classes."""
    side = int(1000 * megapixels**0.5)

    def encode(color: tuple[int, int, int]) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (side, side), color).save(file, kind, **options)
        return file.getvalue()

    return _images(folder, encode, kind.lower())


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _frame(kind: str, color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def _gif(color: tuple[int, int, int], frames: int = 10_000) -> bytes:
    whole = _frame("GIF", color)
    # The header and the table of colors, then a frame, then the end.
    start = 13 + 3 * 2 ** ((whole[10] & 7) + 1)
    return whole[:start] + whole[start:-1] * frames + whole[-1:]


def _apng(color: tuple[int, int, int], frames: int = 10_000) -> bytes:
    whole = _frame("PNG", color)
    length = int.from_bytes(whole[33:37], "big")
    pixels, parts = whole[41 : 41 + length], [whole[:33], _chunk(b"acTL", struct.pack(">II", frames, 0))]
    for number in range(frames):
        control = struct.pack(">IIIIIHHBB", max(0, 2 * number - 1), 64, 64, 0, 0, 1, 10, 0, 0)
        frame = _chunk(b"fdAT", struct.pack(">I", 2 * number) + pixels) if number else _chunk(b"IDAT", pixels)
        parts += [_chunk(b"fcTL", control), frame]
    return b"".join([*parts, _chunk(b"IEND", b"")])


def _animated_webp(color: tuple[int, int, int], frames: int = 10_000) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)

    size = (63).to_bytes(3, "little") * 2
    frame = chunk(b"ANMF", bytes(6) + size + (10).to_bytes(3, "little") + b"\0" + _frame("WEBP", color)[12:])
    parts = [chunk(b"VP8X", bytes([2, 0, 0, 0]) + size), chunk(b"ANIM", bytes(6)), frame * frames]
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, parts))) + b"WEBP" + b"".join(parts)


@cache
def _zeros() -> bytes:
    return zlib.compress(bytes(300_000_000), 1)


def _png(color: tuple[int, int, int], *chunks: tuple[bytes, bytes], size: tuple[int, int] = (64, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG", compress_level=1)
    whole = file.getvalue()
    return whole[:33] + b"".join(_chunk(*each) for each in chunks) + whole[33:]


def _jpeg(color: tuple[int, int, int], *segments: tuple[int, bytes], megapixels: float = 0.01) -> bytes:
    whole = _encoded("JPEG", color, megapixels)
    parts = (bytes([255, marker]) + struct.pack(">H", len(content) + 2) + content for marker, content in segments)
    return whole[:2] + b"".join(parts) + whole[2:]


def _many_scans(color: tuple[int, int, int], scans: int = 1000) -> bytes:
    """Repeat the last scan of a progressive JPEG."""
    whole = _encoded("JPEG", color, 49, progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + whole[-2:]


def _encoded(kind: str, color: tuple[int, int, int], megapixels: float, mode: str = "RGB", **options: Any) -> bytes:
    side, file = int(1000 * megapixels**0.5), io.BytesIO()
    Image.new("RGB", (side, side), color).convert(mode).save(file, kind, **options)
    return file.getvalue()


def _gray_of_32_bits(color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("F", (7000, 7000), color[0]).save(file, "TIFF", compression="tiff_adobe_deflate")
    return file.getvalue()


def _comments(color: tuple[int, int, int], comments: int = 1_000_000) -> bytes:
    whole = _frame("GIF", color)
    start = 13 + 3 * 2 ** ((whole[10] & 7) + 1)
    return whole[:start] + b"!\xfe\1x\0" * comments + whole[start:]


def _plain_bits(color: tuple[int, int, int]) -> bytes:
    return b"P1 7000 7000\n" + (b"01" * 3500) * 7000


def _plain_gray(color: tuple[int, int, int]) -> bytes:
    return b"P2 7000 7000 9\n" + (b"%d " % (color[0] % 10) * 7000) * 7000


def _run_lengths(color: tuple[int, int, int]) -> bytes:
    """A BMP of 49 megapixels, whose runs are a pixel long."""
    header = struct.pack("<IIIHHIIIIII", 40, 7000, 7000, 1, 8, 1, 0, 0, 0, 256, 0)
    palette, runs = bytes(1024), (bytes([1, color[0] % 256]) * 7000 + b"\0\0") * 7000 + b"\0\1"
    offset = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset) + header + palette + runs


def _strips(color: tuple[int, int, int], side: int = 1000) -> bytes:
    """A TIFF of a million tiles of one pixel."""
    count, entries = side * side, []
    start = 8 + 2 + 12 * 10 + 4
    for tag, kind, number, value in (
        *((256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)),
        *((322, 4, 1, 1), (323, 4, 1, 1), (324, 4, count, start), (325, 4, count, start + 4 * count)),
    ):
        entries.append(struct.pack("<HHII", tag, kind, number, value))
    pixels = start + 8 * count
    offsets = struct.pack(f"<{count}I", *range(pixels, pixels + count))
    sizes = struct.pack("<I", 1) * count
    whole = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 10) + b"".join(entries) + bytes(4)
    return whole + offsets + sizes + bytes([color[0] % 256]) * count


IMAGE_BOMBS: dict[str, Callable[[Path], Path]] = {
    "images with 100000 texts": partial(
        _images, encode=lambda color: _png(color, *[(b"tEXt", b"k\0x")] * 100_000), suffix="png"
    ),
    "images with a text of 300 MB": partial(
        _images,
        encode=lambda color: _png(color, (b"zTXt", b"k\0\0" + _zeros())),
        suffix="png",
    ),
    "PNG of 49 megapixels": partial(solid_images, kind="PNG", megapixels=49, compress_level=1),
    "JPEG of 49 megapixels": partial(solid_images, kind="JPEG", megapixels=49),
    "progressive JPEG of 49 megapixels": partial(solid_images, kind="JPEG", megapixels=49, progressive=True),
    "TIFF of 49 megapixels": partial(solid_images, kind="TIFF", megapixels=49, compression="tiff_adobe_deflate"),
    "WebP of 24 megapixels": partial(solid_images, kind="WEBP", megapixels=24, lossless=True, method=0, quality=0),
    "GIF of 10000 frames": partial(_images, encode=_gif, suffix="gif"),
    "PNG of 10000 frames": partial(_images, encode=_apng, suffix="png"),
    "WebP of 10000 frames": partial(_images, encode=_animated_webp, suffix="webp"),
    "images of 100 megapixels": partial(_images, encode=partial(_png, size=(10_000, 10_000)), suffix="png"),
    "images of 1 x 1000000 pixels": partial(_images, encode=partial(_png, size=(1, 1_000_000)), suffix="png"),
    **{
        name: partial(_images, encode=encode, suffix=suffix)
        for name, suffix, encode in (
            ("PNG of a million other chunks", "png", lambda color: _png(color, *[(b"abCd", b"")] * 1_000_000)),
            ("PNG of a million empty parts", "png", lambda color: _png(color, *[(b"IDAT", b"")] * 1_000_000)),
            ("PNG of 49 megapixels of 16 bits", "png", partial(_encoded, "PNG", megapixels=49, mode="I;16")),
            (
                "PNG of 49 megapixels with a palette",
                "png",
                partial(_encoded, "PNG", megapixels=49, mode="P", transparency=0),
            ),
            ("JPEG of 49 megapixels of CMYK", "jpg", partial(_encoded, "JPEG", megapixels=49, mode="CMYK")),
            ("JPEG of a million comments", "jpg", lambda color: _jpeg(color, *[(0xFE, b"x")] * 1_000_000)),
            ("JPEG of 100000 profiles", "jpg", lambda color: _jpeg(color, *[(0xE2, b"ICC_PROFILE\0\1\1x")] * 100_000)),
            (
                "JPEG of 100000 resources",
                "jpg",
                lambda color: _jpeg(color, *[(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 100)] * 10_000),
            ),
            ("JPEG of 49 megapixels in 1000 scans", "jpg", _many_scans),
            ("GIF of a million comments", "gif", _comments),
            ("TIFF of 49 megapixels of 32 bits", "tif", _gray_of_32_bits),
            ("TIFF of a million tiles", "tif", _strips),
            ("PBM of 49 megapixels as text", "pbm", _plain_bits),
            ("PGM of 49 megapixels as text", "pgm", _plain_gray),
            ("BMP of 49 million runs", "bmp", _run_lengths),
            ("JPEG 2000 of 12 megapixels", "jp2", partial(_encoded, "JPEG2000", megapixels=12)),
            ("AVIF of 24 megapixels", "avif", partial(_encoded, "AVIF", megapixels=24, speed=10)),
        )
    },
}
"""Bombs by name."""
