"""Masked image modeling by pixels (SimMIM, arXiv:2111.09886).

Legend: B rows, P patches, C channels, H and W pixels.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from hf_finetune.errors import InputError
from hf_finetune.pretraining.objectives.base import Predicts, Task
from hf_finetune.pretraining.objectives.masked_images import FAMILIES, MaskedImageTask, image_shape
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
class SimMIM:
    """Of images: predict the pixels of patches that are left out (arXiv:2111.09886). For vit, deit and swin."""

    share: OpenFraction = 0.6
    """Share of an image that is left out, in whole squares: one at least, and all but one at most."""
    block: Count = 32
    """Side in pixels of the squares that are left out together, rounded to whole patches; of small images half of
    their shorter side at most."""

    predicts: ClassVar[Predicts] = "patches"
    learning_rate: ClassVar[float] = 1e-4
    compares_rows: ClassVar[bool] = False

    def check_family(self, config: PreTrainedConfig) -> None:
        """See `Objective.check_family`."""
        from transformers import MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING

        if config.model_type not in FAMILIES or type(config) not in MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING:
            raise InputError(
                f"pretrain.objective: {config.model_type} predicts no patches; expected a {', '.join(FAMILIES[:-1])} "
                f"or {FAMILIES[-1]} checkpoint"
            )

    def task(self, network: PreTrainedModel, inputs: Inputs, rows: Dataset, example: dict[str, Any], seed: int) -> Task:
        """See `Objective.task`."""
        shape, patch = image_shape(self, network, example), int(network.config.patch_size)
        most = max(1, min(shape[1:]) // patch // 2) * patch
        fitting = self
        if round(self.block / patch) * patch > most:
            text = (
                "pretrain.objective.block: %d here, not %d, of images of %d x %d pixels: a part of each is to be seen"
            )
            logger.info(text, most, self.block, *shape[1:])
            fitting = replace(self, block=most)
        block = max(1, round(fitting.block / patch))
        return SimMIMTask(fitting, network, inputs, shape=shape, seed=seed, block=block)


class SimMIMTask(MaskedImageTask):
    """The pixels of patches that are left out are predicted by a masked image model of the library."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Compute the mean difference of each row's pixels that were left out, summed over rows."""
        pixels_BCHW, masked_BP = batch["pixel_values"], batch["bool_masked_pos"]
        predicted_BCHW = model(pixel_values=pixels_BCHW, bool_masked_pos=masked_BP).reconstruction
        masked_BHW = masked_BP.view(-1, *self.grid).repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)
        return masked_pixels(predicted_BCHW, pixels_BCHW, masked_BHW)


def masked_pixels(predicted_BCHW: torch.Tensor, pixels_BCHW: torch.Tensor, masked_BHW: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of each row's pixels that were left out, summed over rows: a scalar.

    Args:
        masked_BHW: true where pixels were left out; somewhere in each row.
    """
    differences_BHW = (predicted_BCHW.float() - pixels_BCHW.float()).abs().mean(1) * masked_BHW
    return (differences_BHW.sum((1, 2)) / masked_BHW.sum((1, 2))).sum()
