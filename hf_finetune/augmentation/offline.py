"""Offline augmentation: augmented copies of every training row, made once before training."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import generate_random_fingerprint

from hf_finetune.augmentation.augmenter import Augmenter
from hf_finetune.data import image_cache
from hf_finetune.data.duplicates import row_digests
from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.errors import InputError
from hf_finetune.utils import disk_cache
from hf_finetune.utils.console import Progress

IMAGES_PER_BATCH = 64
# A generative operation batches texts of similar length, so larger batches are faster; but a killed run loses the
# paraphrases of its last batch.
TEXTS_PER_BATCH = 512


def with_copies(rows: Dataset, inputs: Inputs, augmenter: Augmenter, copies: int) -> Dataset:
    """Return the rows followed by `copies` augmented copies of all of them; copy v of a row is its view v of epoch 0.

    Language models loaded for this are released.

    Args:
        rows: canonical training rows.

    Raises:
        InputError: see `operations.apply`; or the disk cache has no room for the images.
    """
    with Progress("augment", total=len(rows) * copies, quiet=True) as bar:
        if isinstance(inputs, TextInputs):
            parts = [rows, *(_text_copy(rows, augmenter, view, bar) for view in range(1, copies + 1))]
        else:
            parts = _image_copies(rows, inputs, augmenter, copies, bar)
    if augmenter.paraphrase is not None:
        augmenter.paraphrase.release()
    return concatenate_datasets(parts)


def without_scored(copied: Dataset, originals: int, scored: Sequence[Dataset]) -> Dataset:
    """Return the rows without augmented texts that equal a scored row, which would leak it into training.

    Args:
        copied: rows from `with_copies`.
        originals: number of rows at the start that are not copies; their duplicates are handled when data are split.
        scored: canonical rows of validation and test.
    """
    if "text" not in copied.column_names:
        return copied  # an augmented image equals no image file
    known = {digest for rows in scored for digest in row_digests(rows.with_format("arrow")[:])}
    digests = row_digests(copied.with_format("arrow")[:])
    return copied.select([i for i, digest in enumerate(digests) if i < originals or digest not in known])


def identity_of(rows: Dataset, inputs: ImageInputs, augmenter: Augmenter) -> dict[str, Any]:
    """Return everything that augmented images depend on except epoch and view, in JSON types."""
    return {
        "original": image_cache.cache_key(rows, inputs.processor),
        "version": version("hf_finetune"),
        "operations": repr(augmenter.operations),
        "seed": augmenter.seed,
        "labels": augmenter.population.labels.tolist(),
    }


def _text_copy(rows: Dataset, augmenter: Augmenter, view: int, bar: Progress) -> Dataset:
    """Return one view of all rows, in memory."""

    def augment(columns: dict[str, Any], indices: list[int]) -> dict[str, list[str]]:
        bar.update(len(indices))
        return augmenter.texts(columns, indices, 0, view).columns()

    return rows.map(
        augment,
        with_indices=True,
        batched=True,
        batch_size=TEXTS_PER_BATCH,
        features=rows.features,
        keep_in_memory=True,
        # The default would hash everything that `augment` refers to, texts included.
        new_fingerprint=generate_random_fingerprint(),
    )


def _image_copies(
    rows: Dataset, inputs: ImageInputs, augmenter: Augmenter, copies: int, bar: Progress
) -> list[Dataset]:
    """Return the rows and each of their copies, as pixels of the model's input size in the disk cache.

    The processor must not see a copy again: it might crop its border a second time.
    """

    def augmented(view: int) -> Iterator[torch.Tensor]:
        for start in range(0, len(decoded), IMAGES_PER_BATCH):
            part = decoded[start : start + IMAGES_PER_BATCH]
            numbers = range(start, start + len(part["label"]))
            yield augmenter.pixels(inputs.pixels(part["image"]), part["label"], numbers, 0, view)
            bar.update(len(numbers))

    identity = identity_of(rows, inputs, augmenter)
    try:
        decoded = image_cache.cache_decoded(rows, inputs.processor, budget_gb=inputs.cache_gb)
        return [decoded] + [
            image_cache.cache_pixels(rows, augmented(view), {**identity, "view": view}, budget_gb=inputs.cache_gb)
            for view in range(1, copies + 1)
        ]
    except disk_cache.CacheUnavailable as reason:
        raise InputError(
            "data.augment_copies: expected 0, which augments images as they are read, or room for "
            f"{copies} copies: {reason}"
        ) from None
