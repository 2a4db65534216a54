"""Offline augmentation: a number of changed copies of every training row, made once before the training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import generate_random_fingerprint
from tqdm import tqdm

from hf_finetune.augmentation.augmenter import Augmenter
from hf_finetune.data import image_cache
from hf_finetune.data.duplicates import row_digests
from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.errors import InputError
from hf_finetune.utils import disk_cache

# Images are large. Of texts, a language model puts those of like length together, and a run that is killed loses so
# many paraphrases at most.
IMAGES_AT_A_TIME, TEXTS_AT_A_TIME = 64, 512


def with_copies(rows: Dataset, inputs: Inputs, augmentation: Augmenter, copies: int) -> Dataset:
    """The rows, and behind them so many changed copies of all of them; copy v of a row is its view v in epoch 0.

    Language models that were loaded for it are released.

    Args:
        rows: canonical training rows.
        copies: how many of each.

    Raises:
        InputError: see `operations.apply`; or there is no room for images.
    """
    with tqdm(total=len(rows) * copies, desc="augment", unit="row", dynamic_ncols=True, disable=None) as bar:
        if isinstance(inputs, TextInputs):
            parts = [rows, *(_text_copy(rows, augmentation, view, bar) for view in range(1, copies + 1))]
        else:
            parts = _image_copies(rows, inputs, augmentation, copies, bar)
    if augmentation.paraphrase is not None:
        augmentation.paraphrase.release()
    return concatenate_datasets(parts)


def without_scored(copied: Dataset, originals: int, scored: Sequence[Dataset]) -> Dataset:
    """Without the changed texts that equal a row which is scored: a model that has trained on them has seen it.

    Args:
        copied: see `with_copies`.
        originals: how many of the rows, the first, are no copies; these are counted where the data are divided.
        scored: canonical rows of validation and test.
    """
    if "text" not in copied.column_names:
        # The pixels of a changed image are no file's.
        return copied
    known = {digest for rows in scored for digest in row_digests(rows.with_format("arrow")[:])}
    digests = row_digests(copied.with_format("arrow")[:])
    return copied.select([i for i, digest in enumerate(digests) if i < originals or digest not in known])


def identity_of(rows: Dataset, inputs: ImageInputs, augmentation: Augmenter) -> dict[str, Any]:
    """All that changed images depend on, but for the epoch and the view, as JSON has it."""
    return {
        "original": image_cache.cache_key(rows, inputs.processor),
        "version": version("hf_finetune"),
        "operations": repr(augmentation.operations),
        "seed": augmentation.seed,
        "labels": augmentation.population.labels.tolist(),
    }


def _text_copy(rows: Dataset, augmentation: Augmenter, view: int, bar: tqdm) -> Dataset:
    """One view of all rows, in memory."""

    def change(columns: dict[str, Any], indices: list[int]) -> dict[str, list[str]]:
        bar.update(len(indices))
        return augmentation.texts(columns, indices, 0, view).columns()

    return rows.map(
        change,
        with_indices=True,
        batched=True,
        batch_size=TEXTS_AT_A_TIME,
        features=rows.features,
        keep_in_memory=True,
        # By default it is a hash of all that `change` holds, texts included.
        new_fingerprint=generate_random_fingerprint(),
    )


def _image_copies(rows: Dataset, inputs: ImageInputs, augmentation: Augmenter, copies: int, bar: tqdm) -> list[Dataset]:
    """The rows, and each copy of them, as pixels at the network's size in the disk cache: no processor sees a copy
    again, which might cut off its border once more."""

    def changed(view: int) -> Iterator[torch.Tensor]:
        for start in range(0, len(decoded), IMAGES_AT_A_TIME):
            part = decoded[start : start + IMAGES_AT_A_TIME]
            numbers = range(start, start + len(part["label"]))
            yield augmentation.pixels(inputs.pixels(part["image"]), part["label"], numbers, 0, view)
            bar.update(len(numbers))

    identity = identity_of(rows, inputs, augmentation)
    try:
        decoded = image_cache.cache_decoded(rows, inputs.processor, budget_gb=inputs.cache_gb)
        size = tuple(inputs.pixels(decoded[:1]["image"]).shape[1:])
        return [decoded] + [
            image_cache.cache_pixels(rows, changed(view), size, {**identity, "view": view}, budget_gb=inputs.cache_gb)
            for view in range(1, copies + 1)
        ]
    except disk_cache.CacheUnavailable as reason:
        raise InputError(
            "data.augment_copies: expected 0, which changes images as they are read, or room for "
            f"{copies} copies: {reason}"
        ) from None
