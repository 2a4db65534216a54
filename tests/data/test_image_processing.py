"""Processing gives the pixels of the checkpoint's own processor, whatever the size of the images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.checkpoints import load_image_processor
from helpers.tiny import IMAGE_FAMILIES, tiny_image_checkpoint
from PIL import Image

from hf_finetune.data import image_processing
from hf_finetune.data.image_processing import process, resize


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_large_images(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are copied a few lines at a time, which changes no bit."""
    monkeypatch.setattr(image_processing, "PROBED_PIXELS", 1000)
    monkeypatch.setattr(image_processing, "PIXELS_AT_ONCE", 500)
    processor = load_image_processor(tiny_image_checkpoint(tmp_path / "vit", family))
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (shape, 53, 3), dtype=np.uint8)) for shape in (47, 71)]
    given: list[type] = []
    own = type(processor).__call__

    def call(self, batch, **options):
        given.append(type(batch[0]))
        return own(self, batch, **options)

    monkeypatch.setattr(type(processor), "__call__", call)
    for step, options in ((process, {}), (resize, {"do_rescale": False, "do_normalize": False})):
        for batch in (images[:1], images):
            try:
                expected = own(processor, list(batch), return_tensors="pt", **options)["pixel_values"]
            except ValueError:  # of several sizes
                continue
            assert torch.equal(step(processor, batch), expected)
    assert torch.Tensor in given
