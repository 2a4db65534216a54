"""Masked autoencoders (MAE, arXiv:2111.06377).

Legend: B rows, P patches, M patches that are left out, E values of a patch's pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from hf_finetune.errors import InputError
from hf_finetune.pretraining.objectives.base import Predicts, Task
from hf_finetune.pretraining.objectives.masked_images import FAMILIES, MaskedImageTask, image_shape
from hf_finetune.utils.config import Count, OpenFraction, configclass
from hf_finetune.utils.config_errors import Check

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_finetune.data.inputs import Inputs
    from hf_finetune.training.hooks import Batch

# Added to the variance of a patch, which may be of one color (the authors' code).
EPSILON = 1e-6


@configclass
class MAE:
    """Of images: predict the pixels of patches that the encoder is not shown at all (arXiv:2111.06377). For vit, deit
    and dinov2, whose layers take any part of the patches; they compute no other."""

    share: OpenFraction = 0.75
    """Share of an image's patches that is left out: one at least, and all but one at most."""
    normalize: bool = True
    """Predict each patch less its mean and divided by its standard deviation; else its pixels as they are."""
    decoder_layers: Count = 2
    """Layers of the decoder, which is thrown away afterwards. The paper's 2 fine-tune as well as its 8 (table 1a)."""
    decoder_width: (
        Annotated[int, Check(lambda n: n > 0 and n % 4 == 0, "a multiple of 4, or null for half the encoder's")] | None
    ) = None
    """Features of a token in the decoder, a multiple of 4. None: half as many as in the encoder, as the paper's 512 to
    1,024."""

    predicts: ClassVar[Predicts] = "unseen patches"
    # The paper's base rate, which it multiplies by rows / 256 while it starts from random weights. Not measured here.
    learning_rate: ClassVar[float] = 1.5e-4
    compares_rows: ClassVar[bool] = False

    def check_family(self, config: PreTrainedConfig) -> None:
        """See `Objective.check_family`."""
        from hf_finetune.models.patches import takes_any_patches

        if not takes_any_patches(config):
            others = "SimMIM or SimCLR" if config.model_type in FAMILIES else "SimCLR"
            raise InputError(
                f"pretrain.objective: MAE leaves patches out, and {config.model_type} needs every patch; expected a "
                f"vit, deit or dinov2 checkpoint, or {others}"
            )

    def task(self, network: PreTrainedModel, inputs: Inputs, rows: Dataset, example: dict[str, Any], seed: int) -> Task:
        """See `Objective.task`."""
        from hf_finetune.pretraining.autoencoder import MaskedAutoencoder

        shape = image_shape(self, network, example)
        layers, width = self.decoder_layers, self.decoder_width
        autoencoder = MaskedAutoencoder(network, layers=layers, width=width, shape=shape, seed=seed)
        return MAETask(self, autoencoder, inputs, shape=shape, seed=seed)


class MAETask(MaskedImageTask):
    """Patches that the encoder has not seen are predicted, by a `MaskedAutoencoder`."""

    objective: MAE

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Compute the mean squared difference of each row's patches that were left out, summed over rows."""
        from hf_finetune.models.patches import patch_pixels

        pixels_BCHW, left_out_BP = batch["pixel_values"], batch["bool_masked_pos"]
        predicted_BME = model(pixel_values=pixels_BCHW, bool_masked_pos=left_out_BP)
        pixels_BME = patch_pixels(pixels_BCHW, self.patch)[left_out_BP].view_as(predicted_BME)
        return unseen_patches(predicted_BME, pixels_BME, normalize=self.objective.normalize)


def unseen_patches(predicted_BME: torch.Tensor, pixels_BME: torch.Tensor, *, normalize: bool) -> torch.Tensor:
    """Mean squared difference of each row's patches that were left out, summed over rows: a scalar.

    Args:
        normalize: compare with each patch less its mean and divided by its standard deviation (of a sample, by E - 1).
    """
    import torch

    targets_BME = pixels_BME.float()
    if normalize:
        variance_BM1, mean_BM1 = torch.var_mean(targets_BME, -1, keepdim=True)
        targets_BME = (targets_BME - mean_BM1) / (variance_BM1 + EPSILON).sqrt()
    return (predicted_BME.float() - targets_BME).square().mean((1, 2)).sum()
