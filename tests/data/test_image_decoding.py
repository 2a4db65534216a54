"""Images of every mode are converted to RGB; damage is detected."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_finetune.data.image_checks import damage
from hf_finetune.data.image_decoding import decode
from hf_finetune.errors import InputError


def saved(image: Image.Image, kind: str = "PNG", **options) -> dict:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return {"bytes": file.getvalue(), "path": None}


def pixels(image: dict) -> np.ndarray:
    assert damage(image) is None
    image = decode(image)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_modes() -> None:
    assert pixels(saved(Image.new("RGB", (3, 2), (1, 2, 3))))[0, 0].tolist() == [1, 2, 3]
    assert pixels(saved(Image.new("L", (3, 2), 7))).shape == (2, 3, 3)
    assert pixels(saved(Image.new("1", (3, 2), 1)))[0, 0].tolist() == [255] * 3
    assert pixels(saved(Image.new("LA", (3, 2), (7, 0))))[0, 0].tolist() == [7] * 3
    assert pixels(saved(Image.new("RGBA", (3, 2), (1, 2, 3, 4))))[0, 0].tolist() == [1, 2, 3]
    palette = Image.new("RGB", (3, 2), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert pixels(saved(palette))[0, 0].tolist() == [10, 20, 30]
    # Pillow warns when such a palette becomes RGB without a step between.
    assert pixels(saved(palette, transparency=bytes([0] * 256)))[0, 0].tolist() == [10, 20, 30]
    assert pixels(saved(Image.new("CMYK", (8, 8)), "JPEG"))[0, 0].tolist() == [255] * 3


def test_deep_greys_are_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    assert pixels(saved(grey))[0, :, 0].tolist() == [0, 1, 128, 255]
    whole = Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.int32))
    assert pixels(saved(whole, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    small = Image.fromarray(np.array([[0, 100, 255]], dtype=np.int32))
    assert pixels(saved(small, "TIFF"))[0, :, 0].tolist() == [0, 100, 255]
    relative = Image.fromarray(np.array([[0, 0.2, 1]], dtype=np.float32))
    assert pixels(saved(relative, "TIFF"))[0, :, 0].tolist() == [0, 51, 255]


def test_turned_as_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert pixels(saved(Image.new("RGB", (6, 2)), "JPEG", exif=exif)).shape == (6, 2, 3)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    image = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(image)[0, 0].tolist() == [255, 0, 0]


def test_path_is_read_without_bytes(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "a.png")
    assert pixels({"bytes": None, "path": str(tmp_path / "a.png")}).shape == (2, 3, 3)
    with pytest.raises(InputError, match=r"b\.png: unreadable image \(no such file\); replace or remove it"):
        decode({"bytes": None, "path": str(tmp_path / "b.png")})


def noise(kind: str) -> bytes:
    rng = np.random.default_rng(0)
    return saved(Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)), kind)["bytes"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not an image", "unknown format"),
        (noise("PNG")[:200], "truncated"),
        (noise("JPEG")[:2000], "truncated"),
        (noise("GIF")[:2000], "truncated"),
        (noise("WEBP")[:300], ""),
        (noise("PNG")[:60] + b"\0" * 40 + noise("PNG")[100:], ""),
    ],
)
def test_damage(content: bytes, reason: str) -> None:
    image = {"bytes": content, "path": "shoe.jpg"}
    actual = damage(image)
    assert actual is not None and reason in actual
    with pytest.raises(InputError, match=r"^shoe\.jpg: unreadable image \(.*\); replace or remove it$"):
        decode(image)
    with pytest.raises(InputError, match=r"^an image: unreadable image"):
        decode({"bytes": content, "path": None})


def test_libtiff_prints_nothing_beside_a_refusal(capfd: pytest.CaptureFixture[str]) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
        file, "TIFF", compression="tiff_lzw"
    )
    content = bytearray(file.getvalue())
    content[200:400] = bytes(range(55, 255))
    assert damage({"bytes": bytes(content), "path": None}) == "decoder error -2"
    assert capfd.readouterr().err == ""
