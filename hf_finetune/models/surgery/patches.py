"""Surgery on what a network sees of a picture: the size of its patches and of the picture.

Legend: P, Q side of a patch before and after, in pixels; G, H side of the grid of positions before and after; D width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_finetune.models.families import check_family, refusal
from hf_finetune.models.surgery.rebuild import rebuild
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

# Transformers that cut the picture into one flat grid of patches, and convolutional networks whose first layer does.
GRIDS = ("vit", "deit", "dinov2", "dinov2_with_registers", "beit")
PATCHED = (*GRIDS, "convnext", "convnextv2")
# Families without a table of positions: a picture of another size changes the image processor, and no weight.
CONVOLUTIONAL = ("convnext", "convnextv2", "resnet", "efficientnet", "poolformer")
SIZED = (*GRIDS, "swin", *CONVOLUTIONAL)


@configclass
class ResizePatches:
    """Cut pictures into patches of another size: larger ones are fewer, and cost less.

    The kernel goes through the pseudo-inverse of bilinear resizing (FlexiViT, arXiv:2212.08013): a larger one gives for
    an enlarged patch the token that the old one gave for the patch, exactly. Positions are interpolated to the new grid.
    """

    size: int
    """Side of a patch in pixels: 28 in place of 14 makes a quarter of the tokens."""
    image_size: int | None = None
    """Side of a picture in pixels, where that changes too. None: as it is."""

    def refuse(self, config: PreTrainedConfig) -> None:
        """Write the new sizes to `config`.

        Raises:
            InputError: the family has no patches, or the size does not go into the picture's.
        """
        check_family(config, PATCHED, "ResizePatches")
        if self.size < 1:
            raise refusal("ResizePatches", f"size: expected at least 1 pixel, got {self.size}")
        _side(config.patch_size, "patches", "ResizePatches")
        config.patch_size = self.size
        _set_image_size(config, self.image_size, "ResizePatches")

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with other patches, and positions for them."""
        config = copy.deepcopy(model.config)
        self.refuse(config)
        return rebuild(model, config, partial(_resized, config.model_type))


@configclass
class ResizeImage:
    """Take pictures of another size: positions are interpolated as the family itself does it, once and for all.

    Networks without positions keep their weights. The image processor follows, see `image_size_after`.
    """

    size: int
    """Side of a picture in pixels."""

    def refuse(self, config: PreTrainedConfig) -> None:
        """Write the new size to `config`.

        Raises:
            InputError: the family is not known to take other sizes, or not this one.
        """
        check_family(config, SIZED, "ResizeImage")
        _set_image_size(config, self.size, "ResizeImage")

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model for pictures of this size."""
        config = copy.deepcopy(model.config)
        self.refuse(config)
        return rebuild(model, config, partial(_resized, config.model_type))


def image_size_after(steps: Sequence[Any]) -> int | None:
    """Side of the pictures in pixels once these operations are done; None where none of them changes it."""
    sizes = [s.size if isinstance(s, ResizeImage) else s.image_size for s in steps if isinstance(s, _SIZING)]
    return next((size for size in reversed(sizes) if size is not None), None)


_SIZING = (ResizeImage, ResizePatches)


def _side(size: int | Sequence[int], what: str, operation: str) -> int:
    """Side in pixels of what the config says in one number or two."""
    if isinstance(size, int):
        return size
    if len(set(size)) != 1:
        raise refusal(operation, f"expected a checkpoint with square {what}, got one with {list(size)}; use another")
    return size[0]


def _set_image_size(config: PreTrainedConfig, wanted: int | None, operation: str) -> None:
    kind = config.model_type
    if kind in ("resnet", "efficientnet", "poolformer"):
        if wanted is not None and wanted < 32:
            raise refusal(operation, f"size: expected at least 32 pixels for {kind}, got {wanted}")
        if kind == "efficientnet" and wanted is not None:
            config.image_size = wanted
        return
    size = _side(config.image_size, "pictures", operation) if wanted is None else wanted
    multiple = _side(config.patch_size, "patches", operation)
    if kind == "swin":
        # Every stage halves the grid, and the last one must hold a whole number of windows: smaller ones do not run, and
        # others are filled up with zeros that take part in attention.
        multiple *= config.window_size * 2 ** (len(config.depths) - 1)
    if kind.startswith("convnext"):
        multiple *= 2 ** (len(config.depths) - 1)
    if size < multiple or size % multiple:
        low = max(1, size // multiple) * multiple
        field = "image_size" if operation == "ResizePatches" else "size"
        expected = f"{field}: expected a multiple of {multiple} pixels for this {kind}"
        raise refusal(operation, f"{expected}, got {size}; give {low} or {low + multiple}")
    config.image_size = size


def _resized(kind: str, name: str, old: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """One weight of this family in its new shape: the patches' kernel, a table of positions, or of relative positions."""
    if old.ndim == 4:
        return resize_kernel(old, shape[-1])
    if name.endswith("relative_position_bias_table"):
        return _relative_positions(old, shape[0])
    assert name.endswith("position_embeddings"), name
    before = {"deit": 2, "swin": 0}.get(kind, 1)
    return _positions(old, shape[1], before=before, antialias=kind == "dinov2_with_registers")


def resize_kernel(kernel_DCPP: torch.Tensor, size: int) -> torch.Tensor:
    """The kernel (D, C, Q, Q) that gives for a resized patch what `kernel_DCPP` gives for the patch (arXiv:2212.08013).

    Resizing is linear, x -> B x, so the kernel w' with <B x, w'> = <x, w> for all x solves B^T w' = w; its pseudo-inverse
    gives the smallest solution, exact where the patch grows and the nearest one where it shrinks. B works along each
    side alone, and so does its inverse.
    """
    import torch

    eye = torch.eye(kernel_DCPP.shape[-1], dtype=torch.float64)[None, None]
    # Row i of the matrix is the i-th pixel, resized: the transpose of resizing along one side.
    resizing_PQ = torch.nn.functional.interpolate(eye, (eye.shape[-1], size), mode="bilinear", antialias=True)[0, 0]
    inverse_QP = torch.linalg.pinv(resizing_PQ)
    return (inverse_QP @ kernel_DCPP.double() @ inverse_QP.T).to(kernel_DCPP.dtype)


def _positions(table_1TD: torch.Tensor, tokens: int, *, before: int, antialias: bool) -> torch.Tensor:
    """Positions of a square grid for another, bicubic as `interpolate_pos_encoding` of the families; (1, tokens, D).

    Args:
        before: positions that are no patch's (CLS, distillation); they stay.
        antialias: whether the family smooths a grid that it makes smaller.
    """
    import torch

    width = table_1TD.shape[-1]
    old, new = (math.isqrt(n - before) for n in (table_1TD.shape[1], tokens))
    grid_1DGG = table_1TD[:, before:].reshape(1, old, old, width).permute(0, 3, 1, 2)
    grid_1DHH = torch.nn.functional.interpolate(grid_1DGG, (new, new), mode="bicubic", antialias=antialias)
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
