"""Masked image modeling by pixels (SimMIM, arXiv:2111.09886).

Legend: B rows, P patches, C channels, H and W pixels.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from hf_finetune.errors import InputError
from hf_finetune.pretraining.objectives.base import Predicts, Task
from hf_finetune.pretraining.objectives.masked_images import (
    MASKABLE,
    MaskedImageObjective,
    MaskedImageTask,
    image_shape,
)
from hf_finetune.utils.config import Count, OpenFraction, configclass

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_finetune.data.inputs import Inputs
    from hf_finetune.training.hooks import Batch

logger = logging.getLogger("hf_finetune.run")


@configclass
class SimMIM(MaskedImageObjective):
    """For images: predict the pixels of masked patches (arXiv:2111.09886). For vit, deit and swin."""

    share: OpenFraction = 0.6
    """Share of an image that is masked, in whole blocks: at least one block, and at most all but one."""
    block: Count = 32
    """Side of a masked block in pixels, rounded to whole patches, and at most half the shorter side of the images."""

    predicts: ClassVar[Predicts] = "patches"
    learning_rate: ClassVar[float] = 1e-4

    def check_family(self, config: PreTrainedConfig) -> None:
        """Refuse a family without a masked image model, see `Objective.check_family`."""
        from transformers import MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING

        if config.model_type not in MASKABLE or type(config) not in MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING:
            raise InputError(
                f"pretrain.objective: SimMIM expects a {', '.join(MASKABLE[:-1])} or {MASKABLE[-1]} checkpoint, got "
                f"{config.model_type}; take another checkpoint, or SimCLR"
            )

    def task(self, network: PreTrainedModel, inputs: Inputs, rows: Dataset, example: dict[str, Any], seed: int) -> Task:
        """Fit the blocks to the images, see `Objective.task`."""
        shape, patch = image_shape(self, network, example), int(network.config.patch_size)
        largest = max(1, min(shape[1:]) // patch // 2) * patch
        fitted = self
        if round(self.block / patch) * patch > largest:
            message = "pretrain.objective.block: %d instead of %d, as a part of the %d x %d pixels must stay visible"
            logger.info(message, largest, self.block, *shape[1:])
            fitted = replace(self, block=largest)
        block = max(1, round(fitted.block / patch))
        return SimMIMTask(fitted, network, inputs, seed, shape=shape, block=block)


class SimMIMTask(MaskedImageTask):
    """Predicts the masked pixels by a masked image model of transformers."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Compute the mean absolute difference of each row's masked pixels, summed over rows."""
        pixels_BCHW, masked_BP = batch["pixel_values"], batch["bool_masked_pos"]
        predicted_BCHW = model(pixel_values=pixels_BCHW, bool_masked_pos=masked_BP).reconstruction
        masked_BHW = masked_BP.view(-1, *self.grid).repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)
        return masked_pixels(predicted_BCHW, pixels_BCHW, masked_BHW)


def masked_pixels(predicted_BCHW: torch.Tensor, pixels_BCHW: torch.Tensor, masked_BHW: torch.Tensor) -> torch.Tensor:
    """Compute the mean absolute difference of each row's masked pixels, summed over rows: a scalar.

    Args:
        masked_BHW: true for masked pixels, at least one in each row.
    """
    differences_BHW = (predicted_BCHW.float() - pixels_BCHW.float()).abs().mean(1) * masked_BHW
    return (differences_BHW.sum((1, 2)) / masked_BHW.sum((1, 2))).sum()
