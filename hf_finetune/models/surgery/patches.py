"""Surgery on the input of an image network: the size of the image and of its patches.

Legend: P, Q side of a patch before and after, in pixels; G, H side of the grid of positions before and after; D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_finetune.models.families import depths_of, names_where
from hf_finetune.models.family import Images
from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import Count, configclass

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

# Families with a flat grid of patches, and convolutional networks whose first layer cuts the image into patches.
PATCHED = names_where(lambda family: family.images is not None and family.images.patches)
# All image families: without a table of positions, only the image processor changes.
SIZED = names_where(lambda family: family.images is not None)
# Smallest side in pixels of an image for a network without patches.
SMALLEST = 32


class _ResizeInput(Operation):
    """The shared part of `ResizePatches` and `ResizeImage`: checks of the sizes, and resized weights."""

    def side(self, size: int | Sequence[int], what: str) -> int:
        """Return the side in pixels from a config field with one or two numbers."""
        if isinstance(size, int):
            return size
        if len(set(size)) != 1:
            raise self.refusal(f"expected a checkpoint with square {what}, got one with {list(size)}; use another")
        return size[0]

    def set_image_size(self, config: PreTrainedConfig, requested: int | None, option: str) -> None:
        """Set the image size in `config`, or refuse one that the network cannot divide into patches and windows."""
        kind, fields = config.model_type, config.to_dict()
        if "patch_size" not in fields or "image_size" not in fields:
            if requested is not None and requested < SMALLEST:
                raise self.refusal(f"{option}: expected at least {SMALLEST} pixels for {kind}, got {requested}")
            if "image_size" in fields and requested is not None:
                config.image_size = requested
            return
        size = self.side(config.image_size, "images") if requested is None else requested
        # Every stage halves the grid, and the last grid must be a multiple of the window: a smaller one does not run,
        # and any other is padded with zeros that take part in attention.
        halvings = len(depths_of(config)) - 1
        multiple = self.side(config.patch_size, "patches") * 2**halvings * fields.get("window_size", 1)
        if size < multiple or size % multiple:
            low = max(1, size // multiple) * multiple
            expected = f"{option}: expected a multiple of {multiple} pixels for this {kind}"
            raise self.refusal(f"{expected}, got {size}; give {low} or {low + multiple}")
        config.image_size = size

    def reshaped(self, config: PreTrainedConfig, name: str, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Return the patch kernel or a table of positions or relative positions in its new shape."""
        images = self.family(config).images
        if tensor.ndim == 4:
            return resize_kernel(tensor, shape[-1])
        if name.endswith("relative_position_bias_table"):
            return _resize_relative_positions(tensor, shape[0])
        assert name.endswith("position_embeddings") and images is not None, name
        return _resize_positions(tensor, shape[1], images)


@configclass
class ResizePatches(_ResizeInput):
    """Cut images into patches of another size: larger patches are fewer and cost less.

    The kernel is multiplied by the pseudo-inverse of bilinear resizing (FlexiViT, arXiv:2212.08013): a larger kernel
    gives exactly the old token for an enlarged patch. Positions are interpolated to the new grid.
    """

    size: Count
    """Side of a patch in pixels: 28 instead of 14 gives a quarter of the tokens."""
    image_size: Count | None = None
    """Side of an image in pixels, if it changes too. None: as it is."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Set the sizes in `config`.

        Raises:
            InputError: the family has no patches, or the image size is no multiple of the patch size.
        """
        self.check_family(config, PATCHED)
        self.side(config.patch_size, "patches")
        config.patch_size = self.size
        self.set_image_size(config, self.image_size, "image_size")


@configclass
class ResizeImage(_ResizeInput):
    """Take images of another size: positions are interpolated once, in the family's own way.

    Networks without positions keep their weights. The image processor changes too, see `image_size_after`.
    """

    size: Count
    """Side of an image in pixels."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Set the size in `config`.

        Raises:
            InputError: the family does not support other sizes, or not this one.
        """
        self.check_family(config, SIZED)
        self.set_image_size(config, self.size, "size")


def image_size_after(steps: Sequence[object]) -> int | None:
    """Return the side of the images in pixels after these operations, None if they do not change it."""
    size = None
    for step in steps:
        if isinstance(step, ResizeImage):
            size = step.size
        elif isinstance(step, ResizePatches):
            size = step.image_size or size
    return size


def resize_kernel(kernel_DCPP: torch.Tensor, size: int) -> torch.Tensor:
    """Return the kernel (D, C, Q, Q) that gives for a resized patch the token of the patch (arXiv:2212.08013).

    Resizing is linear, x -> B x, so the kernel w' with <B x, w'> = <x, w> for all x solves B^T w' = w. The
    pseudo-inverse gives the smallest solution: exact if the patch grows, the closest one if it shrinks. B acts on each
    side separately, and so does its pseudo-inverse.
    """
    import torch

    eye = torch.eye(kernel_DCPP.shape[-1], dtype=torch.float64)[None, None]
    # Row i is the resized i-th pixel: the transposed matrix of resizing along one side.
    resizing_PQ = torch.nn.functional.interpolate(eye, (eye.shape[-1], size), mode="bilinear", antialias=True)[0, 0]
    inverse_QP = torch.linalg.pinv(resizing_PQ)
    return (inverse_QP @ kernel_DCPP.double() @ inverse_QP.T).to(kernel_DCPP.dtype)


def _resize_positions(table_1TD: torch.Tensor, tokens: int, images: Images) -> torch.Tensor:
    """Interpolate positions to another square grid, bicubic as `interpolate_pos_encoding`; shape (1, tokens, D)."""
    import torch

    before, width = images.tokens_before or 0, table_1TD.shape[-1]
    old, new = (math.isqrt(n - before) for n in (table_1TD.shape[1], tokens))
    grid_1DGG = table_1TD[:, before:].reshape(1, old, old, width).permute(0, 3, 1, 2)
    grid_1DHH = torch.nn.functional.interpolate(grid_1DGG, (new, new), mode="bicubic", antialias=images.antialias)
    return torch.cat([table_1TD[:, :before], grid_1DHH.permute(0, 2, 3, 1).reshape(1, -1, width)], 1)


def _resize_relative_positions(table_RA: torch.Tensor, rows: int) -> torch.Tensor:
    """Interpolate BEiT's relative position biases to another grid, bilinear as BEiT does; (rows, heads A).

    The last three rows are CLS to patch, patch to CLS and CLS to CLS.
    """
    import torch

    heads = table_RA.shape[-1]
    old, new = (math.isqrt(n - 3) for n in (table_RA.shape[0], rows))
    grid = table_RA[:-3].reshape(1, old, old, heads).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (new, new), mode="bilinear")
    return torch.cat([grid.permute(0, 2, 3, 1).reshape(-1, heads), table_RA[-3:]])
