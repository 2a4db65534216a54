"""Masked autoencoders (MAE, arXiv:2111.06377).

Legend: B rows, P patches, M masked patches, E values of a patch's pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from hf_finetune.errors import InputError
from hf_finetune.pretraining.objectives.base import Predicts, Task
from hf_finetune.pretraining.objectives.masked_images import (
    MASKABLE,
    MaskedImageObjective,
    MaskedImageTask,
    image_shape,
)
from hf_finetune.utils.config import Count, OpenFraction, configclass
from hf_finetune.utils.config_errors import Check

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_finetune.data.inputs import Inputs
    from hf_finetune.training.hooks import Batch

# Added to the variance of a patch, which is 0 for a single color (the authors' code).
EPSILON = 1e-6


@configclass
class MAE(MaskedImageObjective):
    """For images: predict the pixels of masked patches, which the encoder does not see (arXiv:2111.06377). For vit,
    deit and dinov2, whose layers compute only the visible patches."""

    share: OpenFraction = 0.75
    """Share of an image's patches that is masked: at least one patch, and at most all but one."""
    normalize: bool = True
    """Predict each patch normalized by its own mean and standard deviation. false: its pixels."""
    decoder_layers: Count = 2
    """Layers of the decoder, which is discarded afterwards. In the paper 2 fine-tune as well as 8 (table 1a)."""
    decoder_width: (
        Annotated[int, Check(lambda n: n > 0 and n % 4 == 0, "a multiple of 4, or null for half the encoder's")] | None
    ) = None
    """Width of the decoder, a multiple of 4. None: half the encoder's width, as the paper's 512 to 1,024."""

    predicts: ClassVar[Predicts] = "unseen patches"
    # The paper's base rate; it starts from random weights and multiplies the rate by rows / 256. Not measured here.
    learning_rate: ClassVar[float] = 1.5e-4

    def check_family(self, config: PreTrainedConfig) -> None:
        """Refuse a family whose layers need every patch, see `Objective.check_family`."""
        from hf_finetune.models.patches import takes_any_patches

        if not takes_any_patches(config):
            others = "SimMIM or SimCLR" if config.model_type in MASKABLE else "SimCLR"
            raise InputError(
                f"pretrain.objective: MAE expects a vit, deit or dinov2 checkpoint, got {config.model_type}, which "
                f"needs every patch; take another checkpoint, or {others}"
            )

    def task(self, network: PreTrainedModel, inputs: Inputs, rows: Dataset, example: dict[str, Any], seed: int) -> Task:
        """Add a decoder to the network, see `Objective.task`."""
        from hf_finetune.pretraining.autoencoder import MaskedAutoencoder

        shape = image_shape(self, network, example)
        autoencoder = MaskedAutoencoder(
            network, layers=self.decoder_layers, width=self.decoder_width, shape=shape, seed=seed
        )
        return MAETask(self, autoencoder, inputs, seed, shape=shape)


class MAETask(MaskedImageTask):
    """Predicts the masked patches by a `MaskedAutoencoder`."""

    objective: MAE

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Compute the mean squared difference of each row's masked patches, summed over rows."""
        from hf_finetune.models.patches import patch_pixels

        pixels_BCHW, masked_BP = batch["pixel_values"], batch["bool_masked_pos"]
        predicted_BME = model(pixel_values=pixels_BCHW, bool_masked_pos=masked_BP)
        pixels_BME = patch_pixels(pixels_BCHW, self.patch)[masked_BP].view_as(predicted_BME)
        return unseen_patches(predicted_BME, pixels_BME, normalize=self.objective.normalize)


def unseen_patches(predicted_BME: torch.Tensor, pixels_BME: torch.Tensor, *, normalize: bool) -> torch.Tensor:
    """Compute the mean squared difference of each row's masked patches, summed over rows: a scalar.

    Args:
        normalize: compare with each patch normalized by its mean and its sample standard deviation (by E - 1).
    """
    import torch

    targets_BME = pixels_BME.float()
    if normalize:
        variance_BM1, mean_BM1 = torch.var_mean(targets_BME, -1, keepdim=True)
        targets_BME = (targets_BME - mean_BM1) / (variance_BM1 + EPSILON).sqrt()
    return (predicted_BME.float() - targets_BME).square().mean((1, 2)).sum()
