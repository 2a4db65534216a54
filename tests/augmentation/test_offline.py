"""Offline augmentation: copies behind the rows, none of them a row that is scored."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.small_runs import image_rows, text_rows
from helpers.tiny import tiny_image_checkpoint
from transformers import AutoImageProcessor

from hf_finetune.augmentation.augmenter import Augmenter, population_of
from hf_finetune.augmentation.image.geometry import Flip
from hf_finetune.augmentation.offline import with_copies, without_scored
from hf_finetune.augmentation.operations import TextBatch, generators
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.data.duplicates import first_sources
from hf_finetune.data.inputs import ImageInputs, TextInputs
from hf_finetune.errors import InputError

ROWS = 12


def augmentation(rows, *operations) -> Augmenter:
    return Augmenter(operations, 0, population_of(rows, ("bad", "good")))


def test_text_copies_follow_the_rows(texts: TextInputs) -> None:
    rows = text_rows(ROWS)
    copied = with_copies(rows, texts, augmentation(rows, SwapWords(0.5)), 2)
    assert len(copied) == 3 * ROWS and copied.features == rows.features
    assert copied["text"][:ROWS] == rows["text"][:] and copied["label"][:] == rows["label"][:] * 3
    for view in (1, 2):
        expected = SwapWords(0.5)(TextBatch(rows["text"][:]), generators(0, range(ROWS), 0, view)).texts
        assert copied["text"][view * ROWS : (view + 1) * ROWS] == expected
    assert copied["text"][ROWS : 2 * ROWS] != copied["text"][2 * ROWS :]
    assert first_sources(copied).tolist() == [*range(ROWS)] * 3


def test_copies_that_equal_a_scored_row_are_left_out(texts: TextInputs) -> None:
    """Two copies become rows that are scored; a training row that is one itself stays, as it would without copies."""
    rows = text_rows(ROWS)
    copied = with_copies(rows, texts, augmentation(rows, SwapWords(0.5)), 1)
    third, last = copied["text"][ROWS + 2], copied["text"][2 * ROWS - 1]
    scored = [Dataset.from_dict({"text": [rows["text"][0], third]}), Dataset.from_dict({"text": [last]})]
    assert len({*rows["text"][:2], third, last}) == 4 and copied["text"][ROWS] != rows["text"][0]
    left = without_scored(copied, ROWS, scored)
    assert left["text"][:] == [t for i, t in enumerate(copied["text"][:]) if i not in (ROWS + 2, 2 * ROWS - 1)]


def test_copies_of_images_are_the_changed_pixels(images: ImageInputs) -> None:
    rows = image_rows(4)
    copied = with_copies(rows, images, augmentation(rows, Flip(p=1.0)), 1)
    pixels = images.pixels(copied["image"][:])
    assert torch.equal(pixels[4:], pixels[:4].flip(-1)) and not torch.equal(pixels[4:], pixels[:4])
    assert np.array_equal(copied["row"][:], [0, 1, 2, 3] * 2), "a copy has the number of its row"
    assert first_sources(copied, by_content=False).tolist() == [0, 1, 2, 3] * 2
    assert images.encode(copied)["image"][:] == copied["image"][:], "nothing is decoded again"


def test_a_processor_that_crops_does_not_crop_a_copy_again(tmp_path: Path) -> None:
    processor = AutoImageProcessor.from_pretrained(
        tiny_image_checkpoint(tmp_path / "vit", "vit"), size={"shortest_edge": 40}, do_center_crop=True, crop_size=32
    )
    rows, inputs = image_rows(4), ImageInputs(processor)
    copied = with_copies(rows, inputs, augmentation(rows, Flip(p=0.0)), 2)
    pixels = inputs.pixels(copied["image"][:])
    assert torch.equal(pixels[4:8], pixels[:4]) and torch.equal(pixels[8:], pixels[:4])


def test_copies_without_disk_space_are_refused(images: ImageInputs) -> None:
    rows = image_rows(4)
    with pytest.raises(InputError, match=r"data.augment_copies: expected 0, .* room for 1 copies: .*"):
        with_copies(rows, replace(images, cache_gb=1e-6), augmentation(rows, Flip()), 1)
