"""Batches of training rows that are mixed with one another, the same ones whenever they are made again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hf_finetune.augmentation.mixing import Batch, Mixing
from hf_finetune.augmentation.online import Views
from hf_finetune.data.inputs import EpochRows, Rows

# Apart from the generators of `augmentation.generators`, which have a view in this place.
STREAM = 0x6D6978


class MixedRows(EpochRows):
    """Training rows, each batch with the generator that decides how it is mixed.

    The generator is made of the seed, the epoch and the number of the batch's first row: it depends neither on the batches
    before nor on which process or worker makes this one. A row that is drawn again in an epoch is another number, see
    `batching.number_repeats`: no two batches of an epoch are mixed alike.

    Args:
        rows: the rows, or their views.
        seed: of the run.
    """

    def __init__(self, rows: Rows | Views, seed: int) -> None:
        self.rows, self.seed = rows, seed

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next."""
        super().set_epoch(epoch)
        self.rows.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        # Views tell the times that a row is drawn apart themselves.
        rows = indices if isinstance(self.rows, Views) else [i % len(self) for i in indices]
        return {**self.rows.__getitems__(rows), "generator": generator(self.seed, self.epoch, int(indices[0]))}


def generator(seed: int, epoch: int, first: int) -> np.random.Generator:
    """What decides how a batch is mixed, `first` being the number of its first row."""
    return np.random.default_rng((seed, epoch, first, STREAM))


def collate_mixed(
    operations: tuple[Mixing, ...], collate: Callable[[dict[str, Any]], Batch], batch: dict[str, Any]
) -> Batch:
    """A batch for training, mixed by one of the operations.

    Args:
        collate: makes the tensors, see `data.inputs.with_labels`.
        batch: of `MixedRows`.
    """
    rng = batch["generator"]
    operation = operations[int(rng.integers(len(operations)))]
    return operation(collate(batch), rng)
