"""Masked images, the base of SimMIM and MAE: cheap to import.

Legend: B rows, P patches, C channels, H and W pixels.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hf_finetune.errors import InputError
from hf_finetune.models.families import names_where
from hf_finetune.pretraining.objectives.base import Objective, Task, collate_counted

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel

    from hf_finetune.data.inputs import EpochRows, Inputs
    from hf_finetune.training.hooks import Collate

MASKABLE = names_where(lambda family: family.images is not None and family.images.mask_token)
"""The families whose embeddings take masked patches."""


class MaskedImageObjective(Objective):
    """An objective that masks a part of each image."""

    share: float
    """See `masked_rows.block_mask`."""


class MaskedImageTask(Task):
    """Masks square blocks of patches, whose pixels are predicted.

    Args:
        shape: C, H, W of an image.
        block: side of a block, in patches.
    """

    objective: MaskedImageObjective

    def __init__(
        self,
        objective: MaskedImageObjective,
        network: PreTrainedModel,
        inputs: Inputs,
        seed: int,
        *,
        shape: tuple[int, ...],
        block: int = 1,
    ) -> None:
        super().__init__(objective, network, inputs, seed)
        self.patch, self.block = int(network.config.patch_size), block
        self.grid = (shape[1] // self.patch, shape[2] // self.patch)

    def dataset(self, encoded: Dataset) -> tuple[EpochRows, Collate]:
        """Return images with `bool_masked_pos` (B, P), true for masked patches."""
        from hf_finetune.data.inputs import Rows
        from hf_finetune.pretraining.masked_rows import MaskedRows, mask_patches

        mask = partial(mask_patches, grid=self.grid, block=self.block, share=self.objective.share)
        return MaskedRows(Rows(encoded, self.inputs.columns), mask, self.seed), partial(_collate_masked, self.inputs)


def _collate_masked(inputs: Inputs, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {**collate_counted(inputs, batch), "bool_masked_pos": batch["bool_masked_pos"]}


def image_shape(objective: Objective, network: PreTrainedModel, example: dict[str, Any]) -> tuple[int, ...]:
    """Return the shape C, H, W of the images.

    Raises:
        InputError: an image is a single patch.
    """
    shape, patch = tuple(example["pixel_values"].shape[1:]), int(network.config.patch_size)
    _, height, width = shape
    if height // patch * (width // patch) < 2:
        raise InputError(
            f"pretrain.objective: {type(objective).__name__} needs several patches in an image, got a single one of "
            f"{patch} pixels in {height} x {width}; take SimCLR, or a checkpoint with smaller patches"
        )
    return shape
