"""The rows on which the saved artifacts are compared."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_finetune.data import thumbnails
from hf_finetune.data.image_decoding import decode
from hf_finetune.pipeline import parity


def rows(*sides: int) -> datasets.Dataset:
    images = []
    for side in sides:
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(side).integers(0, 255, (side, side, 3), np.uint8)).save(file, "PNG")
        images.append({"bytes": file.getvalue(), "path": None})
    rows = datasets.Dataset.from_dict({"image": images, "label": list(range(len(sides)))})
    return rows.cast_column("image", datasets.Image(decode=False))


def test_large_images_are_compared_as_reduced_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fresh process decodes sixteen at once, and each several times."""
    monkeypatch.setattr(parity, "LARGE_PIXELS", 100)
    monkeypatch.setattr(thumbnails, "COPY_PIXELS", 100)
    small, whole = rows(10, 8), rows(10, 40, 8)
    assert parity.with_small_images(small) is small
    reduced = parity.with_small_images(whole)
    assert reduced.features == whole.features and reduced["label"][:] == [0, 1, 2]
    assert [decode(image).size for image in reduced["image"]] == [(10, 10), (10, 10), (8, 8)]
    assert reduced[0] == whole[0]
    expected = np.asarray(decode(whole[1]["image"])).reshape(10, 4, 10, 4, 3).mean((1, 3)).round()
    assert np.abs(np.asarray(decode(reduced[1]["image"])) - expected).max() <= 1
