"""Images that others made: only known formats are opened, and neither their pixels nor their decoders fill the memory."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.hostile_files import encoded, refusal, table
from PIL import Image

from hf_finetune.data import image_decoding
from hf_finetune.data.config import DataLimits
from hf_finetune.data.image_checks import damage
from hf_finetune.data.image_decoding import decode, decode_pieces, pieces, upright_size
from hf_finetune.errors import InputError


def test_images_of_other_types_are_refused(tmp_path: Path) -> None:
    for values in ([{"bytes": 5, "path": "a"}], [{"bytes": b"", "path": "a\0b"}], [{"bytes": None, "path": ["a"]}]):
        pq.write_table(pa.table({"image": values * 4, "label": ["a", "b"] * 2}), tmp_path / "a.parquet")
        assert "a.parquet, row 0 counted from 0, column 'image': " in refusal(tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "ICO", "SGI"])
def test_other_formats_are_never_opened(kind: str, tmp_path: Path) -> None:
    content = encoded(Image.new("RGB", (16, 16)), kind)
    (tmp_path / "a.png").write_bytes(content)
    for image in ({"bytes": content, "path": None}, {"bytes": None, "path": str(tmp_path / "a.png")}):
        assert damage(image) == "unknown format"
        with pytest.raises(InputError, match="unknown format"):
            decode(image)


@pytest.mark.parametrize("kind", image_decoding.FORMATS)
def test_every_format_of_the_list_is_read(kind: str) -> None:
    if kind not in image_decoding._formats():
        pytest.skip(f"this Pillow has no {kind}")
    image = {"bytes": encoded(Image.new("RGB", (16, 16), (255, 0, 0)), kind), "path": None}
    assert damage(image) is None
    assert np.asarray(decode(image))[0, 0, 0] > 200


def test_pixels_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = {"bytes": encoded(Image.new("L", (200, 100))), "path": None}
    assert damage(large) is None
    assert "200 x 100 pixels, expected at most 19,999" in (damage(large, DataLimits(image_pixels=19_999)) or "")
    path = table(tmp_path / "a.parquet", [large["bytes"], encoded(Image.new("L", (8, 8)))] * 4)
    message = refusal(path, limits=DataLimits(image_pixels=19_999))
    assert "a.parquet, row 0 counted from 0, column 'image'" in message and "--data.limits.image-pixels" in message
    assert "--data.limits.image-bytes" in refusal(path, limits=DataLimits(image_bytes=80))
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 9_000)
    assert "make it smaller" in (damage(large) or "")


def test_a_large_jpeg_is_decoded_at_a_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_decoding, "REDUCED_PIXELS", 10_000)
    image = {"bytes": encoded(Image.new("RGB", (400, 100)), "JPEG"), "path": None}
    assert decode(image).size == (200, 50)
    assert damage(image, DataLimits(image_pixels=10_000)) is None
    # Its coefficients are held as a whole.
    progressive = {"bytes": encoded(Image.new("RGB", (400, 100)), "JPEG", progressive=True), "path": None}
    assert decode(progressive).size == (400, 100)
    assert "400 x 100 pixels" in (damage(progressive, DataLimits(image_pixels=10_000)) or "")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF"])
def test_a_decoded_image_holds_nothing_of_its_file(kind: str) -> None:
    """The decoder of WebP has copies of the whole image."""
    assert type(decode({"bytes": encoded(Image.new("RGB", (16, 16)), kind), "path": None})) is Image.Image


def test_the_sides_of_an_image_have_a_limited_ratio(tmp_path: Path) -> None:
    """1 x 16,000,000 pixels took 3 GB where a processor sets the shorter side, and a minute to decode."""
    for size in ((1, 101), (101, 1), (1, 16_000_000)):
        content = encoded(Image.new("1", size))
        message = refusal(table(tmp_path / "a.parquet", [content] * 4))
        assert (
            f"a.parquet, row 0 counted from 0, column 'image': unreadable image ({size[0]:,} x {size[1]:,} pixels"
            in message
        )
        assert "--data.limits.image-ratio" in message
    square = {"bytes": encoded(Image.new("1", (1, 100))), "path": None}
    assert damage(square) is None
    assert "a ratio of at most 99" in (damage(square, DataLimits(image_ratio=99)) or "")


def test_pixels_of_slow_decoders_count_several_times() -> None:
    if "JPEG2000" not in image_decoding._formats():
        pytest.skip("this Pillow has no JPEG 2000")
    image = {"bytes": encoded(Image.new("L", (20, 10)), "JPEG2000"), "path": None}
    assert damage(image, DataLimits(image_pixels=800)) is None
    assert "expected at most 199 in total of a JPEG2000 image" in (damage(image, DataLimits(image_pixels=799)) or "")


def test_the_header_tells_the_size_of_the_decoded_image() -> None:
    exif = Image.Exif()
    exif[image_decoding.ORIENTATION] = 6
    for options in ({}, {"exif": exif}):
        image = {"bytes": encoded(Image.new("RGB", (40, 10)), "JPEG", **options), "path": None}
        assert upright_size(image) == decode(image).size == ((10, 40) if options else (40, 10))


def test_the_size_of_an_image_is_read_without_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes a PNG to look for an orientation behind its pixels."""
    exif = Image.Exif()
    exif[image_decoding.ORIENTATION] = 6
    image = Image.new("RGB", (40, 10))
    images = [{"bytes": encoded(image, **options), "path": None} for options in ({}, {"exif": exif})]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    assert [upright_size(image) for image in images] == [(40, 10), (10, 40)]
    assert [image_decoding.count_within(images, most) for most in (399, 400, 799, 800)] == [0, 1, 1, 2]


def test_large_images_are_decoded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_decoding, "PIXELS_AT_ONCE", 1_000)
    images = [{"bytes": encoded(Image.new("L", (side, side))), "path": None} for side in (10, 30, 10, 40, 5, 5)]
    assert [[image.width for image in piece] for piece in decode_pieces(images)] == [[10, 30], [10], [40], [5, 5]]
    # No piece is held while the next one is decoded.
    decoded = list(decode_pieces(images))
    assert [len(piece) for piece in decoded] == [0, 0, 0, 2]
    assert [len(piece) for piece in pieces(images)] == [2, 1, 1, 2]
    assert [len(piece) for piece in pieces([{"bytes": b"x", "path": None}] * 3)] == [3]
