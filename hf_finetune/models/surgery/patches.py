"""Surgery on what a network sees of an image: the size of its patches and of the image.

Legend: P, Q side of a patch before and after, in pixels; G, H side of the grid of positions before and after; D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_finetune.models.families import Images, depths_of, names_where
from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

# A flat grid of patches, and convolutional networks whose first layer cuts the image into patches.
PATCHED = names_where(lambda family: family.images is not None and family.images.patches)
# In families without a table of positions an image of another size changes the image processor, and no weight.
SIZED = names_where(lambda family: family.images is not None)
# Side in pixels below which a network of strides has nothing left.
SMALLEST = 32


class _ResizeInput(Operation):
    """What an operation on the network's input needs: a grid of patches that the network can take, positions for it."""

    def side(self, size: int | Sequence[int], what: str) -> int:
        """Side in pixels that the config has in one number or two."""
        if isinstance(size, int):
            return size
        if len(set(size)) != 1:
            raise self.refusal(f"expected a checkpoint with square {what}, got one with {list(size)}; use another")
        return size[0]

    def set_image_size(self, config: PreTrainedConfig, requested: int | None, option: str) -> None:
        """Write the image size to `config`: a multiple of what the network needs, where it is known."""
        kind, fields = config.model_type, config.to_dict()
        if "patch_size" not in fields or "image_size" not in fields:
            if requested is not None and requested < SMALLEST:
                raise self.refusal(f"{option}: expected at least {SMALLEST} pixels for {kind}, got {requested}")
            if "image_size" in fields and requested is not None:
                config.image_size = requested
            return
        size = self.side(config.image_size, "images") if requested is None else requested
        # Every stage halves the grid, and the last one must hold a whole number of windows: smaller ones do not run,
        # and others are filled up with zeros that take part in attention.
        halvings = len(depths_of(config, self.family(config))) - 1
        multiple = self.side(config.patch_size, "patches") * 2**halvings * fields.get("window_size", 1)
        if size < multiple or size % multiple:
            low = max(1, size // multiple) * multiple
            expected = f"{option}: expected a multiple of {multiple} pixels for this {kind}"
            raise self.refusal(f"{expected}, got {size}; give {low} or {low + multiple}")
        config.image_size = size

    def reshaped(self, config: PreTrainedConfig, name: str, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """The patches' kernel, a table of positions, or of relative positions, in its new shape."""
        images = self.family(config).images
        if tensor.ndim == 4:
            return resize_kernel(tensor, shape[-1])
        if name.endswith("relative_position_bias_table"):
            return _relative_positions(tensor, shape[0])
        assert name.endswith("position_embeddings") and images is not None, name
        return _positions(tensor, shape[1], images)


@configclass
class ResizePatches(_ResizeInput):
    """Cut images into patches of another size: larger ones are fewer, and cost less.

    The kernel goes through the pseudo-inverse of bilinear resizing (FlexiViT, arXiv:2212.08013): a larger one gives for
    an enlarged patch the token that the old one gave for the patch, exactly. Positions are interpolated to the new
    grid.
    """

    size: int
    """Side of a patch in pixels: 28 in place of 14 makes a quarter of the tokens."""
    image_size: int | None = None
    """Side of an image in pixels, where that changes too. None: as it is."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Write the new sizes to `config`.

        Raises:
            InputError: the family has no patches, or the size does not go into the image's.
        """
        self.check_family(config, PATCHED)
        if self.size < 1:
            raise self.refusal(f"size: expected at least 1 pixel, got {self.size}")
        self.side(config.patch_size, "patches")
        config.patch_size = self.size
        self.set_image_size(config, self.image_size, "image_size")


@configclass
class ResizeImage(_ResizeInput):
    """Take images of another size: positions are interpolated as the family itself does it, once and for all.

    Networks without positions keep their weights. The image processor follows, see `image_size_after`.
    """

    size: int
    """Side of an image in pixels."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Write the new size to `config`.

        Raises:
            InputError: the family is not known to take other sizes, or not this one.
        """
        self.check_family(config, SIZED)
        self.set_image_size(config, self.size, "size")


def image_size_after(steps: Sequence[object]) -> int | None:
    """Side of the images in pixels once these operations are done; None where none of them changes it."""
    size = None
    for step in steps:
        if isinstance(step, ResizeImage):
            size = step.size
        elif isinstance(step, ResizePatches):
            size = step.image_size or size
    return size


def resize_kernel(kernel_DCPP: torch.Tensor, size: int) -> torch.Tensor:
    """The kernel (D, C, Q, Q) that gives for a resized patch what `kernel_DCPP` gives for the patch (arXiv:2212.08013).

    Resizing is linear, x -> B x, so the kernel w' with <B x, w'> = <x, w> for all x solves B^T w' = w; its
    pseudo-inverse gives the smallest solution, exact where the patch grows and the nearest one where it shrinks. B
    works along each side alone, and so does its inverse.
    """
    import torch

    eye = torch.eye(kernel_DCPP.shape[-1], dtype=torch.float64)[None, None]
    # Row i of the matrix is the i-th pixel, resized: the transpose of resizing along one side.
    resizing_PQ = torch.nn.functional.interpolate(eye, (eye.shape[-1], size), mode="bilinear", antialias=True)[0, 0]
    inverse_QP = torch.linalg.pinv(resizing_PQ)
    return (inverse_QP @ kernel_DCPP.double() @ inverse_QP.T).to(kernel_DCPP.dtype)


def _positions(table_1TD: torch.Tensor, tokens: int, images: Images) -> torch.Tensor:
    """Positions of a square grid for another, bicubic as `interpolate_pos_encoding` of the families; (1, tokens, D)."""
    import torch

    before, width = images.tokens_before or 0, table_1TD.shape[-1]
    old, new = (math.isqrt(n - before) for n in (table_1TD.shape[1], tokens))
    grid_1DGG = table_1TD[:, before:].reshape(1, old, old, width).permute(0, 3, 1, 2)
    grid_1DHH = torch.nn.functional.interpolate(grid_1DGG, (new, new), mode="bicubic", antialias=images.antialias)
    return torch.cat([table_1TD[:, :before], grid_1DHH.permute(0, 2, 3, 1).reshape(1, -1, width)], 1)


def _relative_positions(table_RA: torch.Tensor, rows: int) -> torch.Tensor:
    """BEiT's biases by relative position for another grid, bilinear as BEiT itself does it; (rows, heads A).

    The last three rows are CLS to patch, patch to CLS and CLS to CLS.
    """
    import torch

    heads = table_RA.shape[-1]
    old, new = (math.isqrt(n - 3) for n in (table_RA.shape[0], rows))
    grid = table_RA[:-3].reshape(1, old, old, heads).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (new, new), mode="bilinear")
    return torch.cat([grid.permute(0, 2, 3, 1).reshape(-1, heads), table_RA[-3:]])
