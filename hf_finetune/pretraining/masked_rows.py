"""Rows of which a part is left out, to be predicted: another part in every epoch, drawn from (seed, row, epoch).

The library's collators draw from one generator, in the order in which batches are made: a resumed run, or another
number of processes, would leave out other words.

Legend: B rows, P patches, H and W patches of an image's height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.augmentation.operations import generators
from hf_finetune.data.inputs import Columns, EpochRows, Inputs, Rows


class MaskedRows(EpochRows):
    """Rows with a part of each left out, by the epoch.

    Args:
        rows: the rows whole.
        leave_out: `(batch, a generator for each row) -> batch`.
        seed: of the run.
    """

    def __init__(
        self, rows: Rows, leave_out: Callable[[Columns, list[np.random.Generator]], Columns], seed: int
    ) -> None:
        self.rows, self.leave_out, self.seed = rows, leave_out, seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Columns:
        return self.leave_out(self.rows.__getitems__(indices), generators(self.seed, indices, self.epoch))


def masked_images(
    encoded: Dataset, inputs: Inputs, *, grid: tuple[int, int], block: int, share: float, seed: int
) -> MaskedRows:
    """Return images, with the patches that are left out as `bool_masked_pos` (B, P).

    Args:
        grid: H, W.
        block, share: see `blocks`.
    """

    def leave_out(batch: Columns, rngs: list[np.random.Generator]) -> Columns:
        masks = [blocks(grid, rng, block=block, share=share).ravel() for rng in rngs]
        return {**batch, "bool_masked_pos": torch.from_numpy(np.stack(masks))}

    return MaskedRows(Rows(encoded, inputs.columns), leave_out, seed)


def blocks(grid: tuple[int, int], rng: np.random.Generator, *, block: int, share: float) -> np.ndarray:
    """Patches that are left out of an image: squares of `block` x `block`, `round(share * squares)` of them.

    One at least, so that there is something to predict, and all but one at most, so that there is something to see.

    Args:
        grid: H, W, of two squares or more. Squares at the right and lower edge are cut off where these are no multiples
            of `block`.

    Returns:
        Mask (H, W).
    """
    height, width = (-(-side // block) for side in grid)
    chosen = np.zeros(height * width, dtype=bool)
    assert len(chosen) > 1, "checked: a square that covers the image would leave nothing to see"
    chosen[rng.permutation(len(chosen))[: min(max(1, round(share * len(chosen))), len(chosen) - 1)]] = True
    squares = chosen.reshape(height, width).repeat(block, 0).repeat(block, 1)
    return squares[: grid[0], : grid[1]]
