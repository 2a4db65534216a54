"""Online augmentation: a new view of every training row in every epoch, and mixing of the rows of a batch."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.augmentation.augmenter import Augmenter
from hf_finetune.augmentation.mixing import Batch, Mixing
from hf_finetune.augmentation.offline import identity_of
from hf_finetune.augmentation.operations import ImageBatch, Operation, apply, generators
from hf_finetune.data.inputs import EpochRows, ImageInputs, Inputs, Rows, TextInputs

# Separates the generators of mixed batches from those of `operations.generators`, which have the view here.
MIXING_STREAM = 0x6D6978


class AugmentedRows(EpochRows):
    """Training rows as the epoch's views of them, encoded.

    An index past the last row means a further view in the same epoch, see `data.batching.number_repeats`.

    Args:
        rows: encoded rows that still have their source columns.
        inputs: encodes the views.
        augmenter: makes the views.
    """

    def __init__(self, rows: Dataset, inputs: Inputs, augmenter: Augmenter) -> None:
        sources = ("text", "text_pair", "image", "label")
        self.rows = rows.select_columns([c for c in sources if c in rows.column_names])
        self.inputs, self.augmenter = inputs, augmenter

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[0] for name, column in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        views = self.views(indices)
        if isinstance(self.inputs, TextInputs):
            return {**self.inputs.encode_batch(views), "label": views["label"]}
        return views

    @cached_property
    def _identity(self) -> dict[str, Any]:
        assert isinstance(self.inputs, ImageInputs), "the views of texts are identified by their content"
        return identity_of(self.rows, self.inputs, self.augmenter)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that the epoch's views of images depend on, in JSON types."""
        progress = self.augmenter.progress
        progress_N = None if progress is None else progress(self.epoch, np.arange(len(self))).tolist()
        return {**self._identity, "epoch": self.epoch, "progress": progress_N}

    def texts(self) -> Dataset:
        """Return the epoch's views of all texts, as canonical rows without labels, in memory."""
        views = self.views(range(len(self)))
        return Dataset.from_dict({name: views[name] for name in ("text", "text_pair") if views[name] is not None})

    def views(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the epoch's views of rows, not encoded.

        Returns:
            `label`; `text` and `text_pair` (None for single texts), or `pixels`, shape (B, 3, H, W), uint8.
        """
        views, rows = (part.tolist() for part in np.divmod(np.asarray(indices, dtype=int), len(self)))
        columns, inputs = self.rows[rows], self.inputs
        if isinstance(inputs, TextInputs):
            batch = self.augmenter.texts(columns, rows, self.epoch, views)
            return {"text": batch.texts, "text_pair": batch.pairs, "label": columns["label"]}
        pixels_BCHW = inputs.pixels(columns["image"])
        changed_BCHW = self.augmenter.pixels(pixels_BCHW, columns["label"], rows, self.epoch, views)
        return {"pixels": changed_BCHW, "label": columns["label"]}


class TwoViews(EpochRows):
    """Two views of every image, without labels, new in every epoch: the positive pairs of contrastive pretraining.

    Args:
        rows: encoded rows.
        inputs: encodes the views.
        operations: make the views; none may depend on labels.
        seed: seed of the run.
    """

    def __init__(self, rows: Dataset, inputs: ImageInputs, operations: tuple[Operation, ...], seed: int) -> None:
        self.rows, self.inputs, self.operations = rows.select_columns(inputs.columns), inputs, operations
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return `pixels`, shape (2 B, 3, H, W), uint8: the first views of all rows, then their second views."""
        batch = ImageBatch(self.inputs.pixels(self.rows[[int(i) for i in indices]]["image"]))
        views = (apply(self.operations, batch, generators(self.seed, indices, self.epoch, view)) for view in (0, 1))
        return {"pixels": torch.cat([view.pixels for view in views])}


def collate_two_views(inputs: ImageInputs, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Collate a batch of `TwoViews`: `pixel_values` (2 B, 3, H, W), and a dummy label per row, which the trainer
    counts."""
    return {**inputs.collate(batch), "labels": torch.zeros(len(batch["pixels"]) // 2, dtype=torch.long)}


class MixedRows(EpochRows):
    """Training rows; each batch comes with the generator that decides how it is mixed.

    The generator is seeded by (seed, epoch, index of the batch's first row), so it depends neither on earlier batches
    nor on the process or worker that makes this one. A row drawn again in an epoch has another index, see
    `data.batching.number_repeats`, so every batch of an epoch has a generator of its own.

    Args:
        rows: the rows, with or without online augmentation.
        seed: seed of the run.
    """

    def __init__(self, rows: Rows | AugmentedRows, seed: int) -> None:
        self.rows, self.seed = rows, seed

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.rows.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        # `AugmentedRows` handles the indices of repeated rows itself.
        rows = indices if isinstance(self.rows, AugmentedRows) else [i % len(self) for i in indices]
        return {**self.rows.__getitems__(rows), "generator": mixing_generator(self.seed, self.epoch, int(indices[0]))}


def mixing_generator(seed: int, epoch: int, first: int) -> np.random.Generator:
    """Return the generator that decides how a batch is mixed; `first` is the index of the batch's first row."""
    return np.random.default_rng((seed, epoch, first, MIXING_STREAM))


def collate_mixed(
    operations: tuple[Mixing, ...], collate: Callable[[dict[str, Any]], Batch], batch: dict[str, Any]
) -> Batch:
    """Collate a batch of `MixedRows`, and mix it by one of the operations, drawn at random.

    Args:
        collate: makes the tensors, see `data.inputs.with_labels`.
    """
    rng = batch["generator"]
    operation = operations[int(rng.integers(len(operations)))]
    return operation(collate(batch), rng)
