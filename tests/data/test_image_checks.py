"""What takes a decoder far longer than the pixels of an image is refused, before it is decoded."""

import io
import struct
import zlib

import pytest
from PIL import Image

from hf_finetune.data.config import DEFAULT_LIMITS, DataLimits
from hf_finetune.data.image_checks import damage
from hf_finetune.data.image_decoding import EncodedImage, open_image, pieces


def encoded(kind: str, size: tuple[int, int] = (40, 30), mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


def reason(content: bytes, limits: DataLimits = DEFAULT_LIMITS) -> str:
    return damage({"bytes": content, "path": None}, limits) or ""


def chunks(kind: bytes, count: int) -> bytes:
    chunk = struct.pack(">I", 3) + kind + b"k\0x"
    return (chunk + struct.pack(">I", zlib.crc32(chunk[4:]))) * count


PNG, JPEG, GIF = encoded("PNG"), encoded("JPEG"), encoded("GIF")
COLORS = 13 + 3 * 2 ** ((GIF[10] & 7) + 1)
OF_MANY_PARTS = {
    "texts of a PNG": PNG[:33] + chunks(b"tEXt", 200) + PNG[33:],
    "texts behind the pixels": PNG[:-12] + chunks(b"tEXt", 200) + PNG[-12:],
    "other chunks of a PNG": PNG[:33] + chunks(b"abCd", 200) + PNG[33:],
    "comments of a JPEG": JPEG[:2] + b"\xff\xfe\0\3x" * 200 + JPEG[2:],
    "comments of a GIF": GIF[:COLORS] + b"!\xfe\1x\0" * 200 + GIF[COLORS:],
}


@pytest.mark.parametrize("name", OF_MANY_PARTS)
def test_parts_are_limited(name: str) -> None:
    """Pillow reads them at each of a dozen openings: six images with 100,000 texts took train 14 s."""
    content = OF_MANY_PARTS[name]
    assert reason(content) == ""
    message = reason(content, DataLimits(image_reads=100))
    assert f"more than 100 texts, comments or other parts in {len(content):,} bytes" in message
    assert "--data.limits.image-reads" in message


def test_tiles_are_limited() -> None:
    content = encoded("TIFF", (8, 400), mode="L", tiffinfo={278: 1})
    with open_image({"bytes": content, "path": None}) as opened:
        assert len(opened.tile) == 400
    assert reason(content) == "" and "other parts" in reason(content, DataLimits(image_reads=100))


def test_a_large_file_may_have_more_parts() -> None:
    content = PNG[:33] + chunks(b"tEXt", 200) + PNG[33:] + bytes(1_000_000)
    assert reason(content, DataLimits(image_reads=100)) == ""


def test_the_limit_holds_before_pixels_are_counted() -> None:
    image: EncodedImage = {"bytes": OF_MANY_PARTS["texts of a PNG"], "path": None}
    assert list(pieces([image], most_reads=100)) == [[image]]


def test_scans_of_a_jpeg_count() -> None:
    """1,000 scans of 49 megapixels, 0.5 MB, took 16 s each time that they were decoded."""
    whole = encoded("JPEG", (1000, 1000), progressive=True)
    last = whole.rindex(b"\xff\xda")
    content = whole[:last] + whole[last:-2] * 91 + whole[-2:]
    assert reason(whole, DataLimits(image_pixels=1_000_000)) == ""
    scans = content.count(b"\xff\xda")
    message = reason(content, DataLimits(image_pixels=5_000_000))
    assert f"1,000 x 1,000 pixels, expected at most {50_000_000 // scans:,} in total" in message
    assert f"of a progressive JPEG of {scans} scans" in message and "--data.limits.image-pixels" in message
    assert reason(content, DataLimits(image_pixels=20_000_000)) == ""


def test_images_that_are_decoded_in_python_are_smaller() -> None:
    """49 megapixels of them took 10 s."""
    side = 200
    header = struct.pack("<IIIHHIIIIII", 40, side, side, 1, 8, 1, 0, 0, 0, 256, 0)
    runs, offset = (b"\1\7" * side + b"\0\0") * side + b"\0\1", 14 + 40 + 1024
    files = {
        "BMP": b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset) + header + bytes(1024) + runs,
        "PPM": b"P2 200 200 9\n" + b"3 " * side * side,
    }
    # A reader of a pixel at a time reads no more parts than others.
    files |= {"PPM of other values": b"P5 200 200 100\n" + bytes(side * side)}
    for name, content in files.items():
        assert reason(content, DataLimits(image_reads=100)) == "", name
        message = reason(content, DataLimits(image_pixels=300_000))
        assert (
            f"200 x 200 pixels, expected at most {300_000 * side * side // (10 * len(content)):,} in total" in message
        )
        assert f"of a {name[:3]} image of {len(content):,} bytes, which Pillow decodes slowly" in message
