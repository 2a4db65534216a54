"""Fewer patches in training: images at a lower resolution, and patches dropped at random.

Legend: B images, P patches, K patches that are kept, T tokens (the patches and the tokens before them), D width, C
channels, H height, W width, E values of a patch's pixels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.families import family_of, tokens_before_patches
from hf_finetune.models.modules import encoder

# Total stride of a convolutional network in pixels.
STRIDE = 32


@dataclass(frozen=True)
class Shrink:
    """Shrink images to a lower resolution."""

    size: int
    """Pixels of the shorter side, before rounding to whole patches."""
    multiple: int
    """Each side becomes a multiple of this many pixels."""

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of a shrunk image.

        Raises:
            InputError: the image would not become smaller.
        """
        scale = self.size / min(height, width)
        low = [max(1, round(side * scale / self.multiple)) * self.multiple for side in (height, width)]
        if low[0] >= height or low[1] >= width:
            raise InputError(
                f"data.low_resolution: {self.size} is {low[0]}x{low[1]} in whole patches, expected less than the "
                f"{height}x{width} of the checkpoint's images; lower it or leave it out"
            )
        return low[0], low[1]

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the images with fewer pixels, bilinear with antialiasing."""
        size = self.shape(*pixels_BCHW.shape[-2:])
        return nn.functional.interpolate(pixels_BCHW, size, mode="bilinear", antialias=True)


def takes_sizes(config: PreTrainedConfig) -> bool:
    """Whether the family is known to take images of another size than its own."""
    images = family_of(config).images
    return images is not None and images.any_size


def shrink_for(model: PreTrainedModel, size: int) -> Shrink:
    """Return the operation that shrinks images for a model, and let the model interpolate its positions to them.

    Args:
        size: pixels of the shorter side.

    Raises:
        InputError: see `takes_sizes`.
    """
    config, family = model.config, family_of(model.config)
    if family.images is None or not takes_sizes(config):
        raise InputError(
            f"data.low_resolution: {config.model_type} takes images of one size only; leave it out, or use a vit, "
            "deit, beit, dinov2, convnext or resnet checkpoint"
        )
    if family.images.on_request:
        # A hook, so that callers of the model need not pass it. It does not change positions that fit.
        embeddings = encoder(model).get_submodule("embeddings")
        embeddings.register_forward_pre_hook(_interpolate_positions, with_kwargs=True)
    return Shrink(size, config.patch_size if family.patch_grid else STRIDE)


def _interpolate_positions(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], options: dict[str, Any]
) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
    return inputs, {**options, "interpolate_pos_encoding": True}


def takes_any_patches(config: PreTrainedConfig) -> bool:
    """Whether a family's layers take any subset of the patches; others need the whole grid."""
    family = family_of(config)
    return family.patch_grid and family.attention == "plain"


def select_patches(embeddings_BTD: torch.Tensor, selected_BK: torch.Tensor, prefix: int) -> torch.Tensor:
    """Return the tokens before the patches and the selected patches, shape (B, prefix + K, D).

    Args:
        selected_BK: numbers of the patches to keep of each image, from 0.
        prefix: number of tokens before the patches, which are always kept.
    """
    batch, tokens, width = embeddings_BTD.shape
    device = embeddings_BTD.device
    first = torch.arange(prefix, device=device).expand(batch, -1)
    selected = torch.cat([first, selected_BK + prefix], 1) + tokens * torch.arange(batch, device=device)[:, None]
    return embeddings_BTD.flatten(0, 1).index_select(0, selected.flatten()).view(batch, -1, width)


def patch_pixels(pixels_BCHW: torch.Tensor, size: int) -> torch.Tensor:
    """Return the pixels of each patch, shape (B, P, E): row by row, the channels of a pixel side by side.

    Args:
        size: side of a patch; H and W are multiples of it.
    """
    patches = pixels_BCHW.unflatten(3, (-1, size)).unflatten(2, (-1, size))
    return patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


@dataclass(frozen=True)
class DropPatches:
    """A forward hook on the embeddings: in training mode, drop random patches of each image.

    It has no parameters, so it is not saved.
    """

    share: float
    """Share of the patches to drop."""
    prefix: int
    """Number of tokens before the patches, see `families.tokens_before_patches`."""

    def __call__(
        self, module: nn.Module, inputs: tuple[torch.Tensor, ...], embeddings_BTD: torch.Tensor
    ) -> torch.Tensor:
        """Return the kept tokens, drawn by torch's generator; in evaluation mode all of them."""
        if not module.training:
            return embeddings_BTD
        batch, patches = len(embeddings_BTD), embeddings_BTD.shape[1] - self.prefix
        count = max(1, round(patches * (1 - self.share)))
        order_BP = torch.rand(batch, patches, device=embeddings_BTD.device).argsort(1)
        return select_patches(embeddings_BTD, order_BP[:, :count].sort(1).values, self.prefix)


def drop_patches(model: PreTrainedModel, share: float) -> None:
    """Make a model drop a random `share` of every image's patches in training (PatchDropout, arXiv:2208.07220).

    They are dropped after the positions are added, so that the others keep their positions. 0 does nothing.

    Raises:
        InputError: the family's layers need the whole grid of patches.
    """
    if share == 0:
        return
    if not takes_any_patches(model.config):
        name = model.config.model_type
        raise InputError(f"model.patch_drop: {name} needs all patches; expected 0, or a vit, deit or dinov2 checkpoint")
    embeddings = encoder(model).get_submodule("embeddings")
    embeddings.register_forward_hook(DropPatches(share, tokens_before_patches(model.config)))
