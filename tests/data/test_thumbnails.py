"""Small copies of images are made once for each large image, and are those of the decoded one."""

import io

import numpy as np
import pytest
from PIL import Image

from hf_finetune.data import thumbnails
from hf_finetune.data.image_decoding import EncodedImage, decode, reduced
from hf_finetune.data.thumbnails import remembering, small_copy, thumbnail


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "_remembered", {})
    monkeypatch.setattr(thumbnails, "_copies", {})


def encoded(side: int, seed: int = 0) -> EncodedImage:
    pixels, file = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return {"bytes": file.getvalue(), "path": None}


def test_a_thumbnail_is_that_of_the_decoded_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six images of 49 megapixels were decoded once more for the linear baseline: 1.3 s of processor time."""
    monkeypatch.setattr(thumbnails, "LARGE_PIXELS", 1000)
    monkeypatch.setattr(thumbnails, "COPY_PIXELS", 100)
    images = [encoded(40, seed) for seed in range(3)] + [encoded(20, 3)]
    expected = [np.asarray(decode(image).resize((16, 16), Image.Resampling.BOX)) for image in images]
    pieces = [[decode(images[0])], [decode(images[1]), decode(images[2])], [decode(images[3])]]
    assert [len(piece) for piece in remembering(images, pieces)] == [1, 2, 1]
    assert len(thumbnails._remembered) == 3
    decoded: list[int] = []
    monkeypatch.setattr(thumbnails, "decode", lambda image: decoded.append(len(image["bytes"])) or decode(image))
    for image, pixels in zip(images, expected, strict=True):
        assert np.array_equal(thumbnail(dict(image)), pixels)
    assert decoded == [len(images[3]["bytes"])]
    for image in images:
        assert np.array_equal(small_copy(image), reduced(decode(image), 100))
    assert decoded == [len(images[3]["bytes"])] * 2


def test_a_changed_file_is_another_image(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "LARGE_PIXELS", 1000)
    image: EncodedImage = {"bytes": None, "path": str(tmp_path / "a.png")}
    Image.new("RGB", (40, 40), "red").save(image["path"])
    list(remembering([image], [[decode(image)]]))
    Image.new("RGB", (41, 41), "blue").save(image["path"])
    assert thumbnail(image)[0, 0].tolist() == [0, 0, 255]


def test_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "LARGE_PIXELS", 0)
    monkeypatch.setattr(thumbnails, "MOST_REMEMBERED", 2)
    monkeypatch.setattr(thumbnails, "MOST_COPIES", 1)
    images = [encoded(20, seed) for seed in range(4)]
    list(remembering(images, [[decode(image) for image in images]]))
    assert len(thumbnails._remembered) == 2 and len(thumbnails._copies) == 1
