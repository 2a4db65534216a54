"""Rows with a masked part, which is predicted: another part in every epoch, drawn from (seed, row, epoch).

The collators of transformers draw from one generator, in the order of the batches: a resumed run, or another number of
processes, would mask other words.

Legend: B rows, P patches, R rows and S columns of patches.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from hf_finetune.augmentation.operations import generators
from hf_finetune.data.inputs import Columns, EpochRows, Rows


class MaskedRows(EpochRows):
    """Rows with a masked part in each, by the epoch.

    Args:
        rows: the original rows.
        mask: `(batch, a generator for each row) -> batch`.
        seed: seed of the run.
    """

    def __init__(self, rows: Rows, mask: Callable[[Columns, list[np.random.Generator]], Columns], seed: int) -> None:
        self.rows, self.mask, self.seed = rows, mask, seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Columns:
        return self.mask(self.rows.__getitems__(indices), generators(self.seed, indices, self.epoch))


def mask_patches(
    batch: Columns, rngs: list[np.random.Generator], *, grid: tuple[int, int], block: int, share: float
) -> Columns:
    """Add `bool_masked_pos` (B, P) to images, true for masked patches.

    Args:
        grid, block, share: see `block_mask`.
    """
    masks = [block_mask(grid, rng, block=block, share=share).ravel() for rng in rngs]
    return {**batch, "bool_masked_pos": torch.from_numpy(np.stack(masks))}


def block_mask(grid: tuple[int, int], rng: np.random.Generator, *, block: int, share: float) -> np.ndarray:
    """Draw the masked patches of an image: blocks of `block` x `block` patches, `round(share * blocks)` of them.

    At least one block is masked, so that there is something to predict, and at most all but one.

    Args:
        grid: R, S, of two blocks or more. Blocks are cut off at the right and lower edge if R or S is no multiple of
            `block`.

    Returns:
        Mask (R, S).
    """
    height, width = (-(-side // block) for side in grid)
    is_masked = np.zeros(height * width, dtype=bool)
    assert len(is_masked) > 1, "checked: a block that covers the image would leave nothing to see"
    count = min(max(1, round(share * len(is_masked))), len(is_masked) - 1)
    is_masked[rng.permutation(len(is_masked))[:count]] = True
    blocks = is_masked.reshape(height, width).repeat(block, 0).repeat(block, 1)
    return blocks[: grid[0], : grid[1]]
