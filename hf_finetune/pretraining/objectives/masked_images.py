"""What SimMIM and MAE share: images of which patches are left out.

Legend: B rows, P patches, C channels, H and W pixels.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from hf_finetune.errors import InputError
from hf_finetune.pretraining.objectives.base import Objective, Task, collate_counted

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel

    from hf_finetune.data.inputs import Inputs
    from hf_finetune.pretraining.masked_rows import MaskedRows
    from hf_finetune.training.hooks import Collate

# Their tokens are patches of one size in rows and columns, as `MaskedImageTask` takes them to be.
FAMILIES = ("vit", "deit", "swin")


class MaskedImages(Objective, Protocol):
    """An objective that leaves out a part of each image."""

    @property
    def share(self) -> float:
        """See `masked_rows.blocks`."""


class MaskedImageTask(Task):
    """Patches of images are left out, in squares, and predicted.

    Args:
        shape: C, H, W of an image.
        seed: of what is left out.
        block: side of a square, in patches.
    """

    objective: MaskedImages

    def __init__(
        self,
        objective: MaskedImages,
        network: PreTrainedModel,
        inputs: Inputs,
        *,
        shape: tuple[int, ...],
        seed: int,
        block: int = 1,
    ) -> None:
        super().__init__(objective, network, inputs)
        self.patch, self.block, self.seed = int(network.config.patch_size), block, seed
        self.grid = (shape[1] // self.patch, shape[2] // self.patch)

    def rows(self, encoded: Dataset) -> MaskedRows:
        """See `Task.rows`."""
        from hf_finetune.pretraining.masked_rows import masked_images

        return masked_images(
            encoded, self.inputs, grid=self.grid, block=self.block, share=self.objective.share, seed=self.seed
        )

    @property
    def collate(self) -> Collate:
        """See `Task.collate`."""
        return partial(collate_masked, self.inputs)


def collate_masked(inputs: Inputs, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Collate images, and which of their patches (B, P) are left out."""
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
            f"pretrain.objective: {type(objective).__name__} leaves patches out, and an image of {height} x {width} "
            f"pixels is a single one of {patch}; expected SimCLR, or a checkpoint with smaller patches"
        )
    return shape
