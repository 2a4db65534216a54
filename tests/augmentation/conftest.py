"""Inputs of texts and of images, by tiny checkpoints."""

import pytest
from helpers.checkpoints import load_image_processor, load_tokenizer
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint

from hf_finetune.data.inputs import ImageInputs, TextInputs


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> TextInputs:
    checkpoint = str(tiny_text_checkpoint(tmp_path_factory.mktemp("text") / "bert"))
    return TextInputs(load_tokenizer(checkpoint, max_length=32, sample=["good"]), 32)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageInputs:
    return ImageInputs(
        load_image_processor(str(tiny_image_checkpoint(tmp_path_factory.mktemp("image") / "vit", "vit")))
    )
