"""Surgery on convolutional networks: the size of their kernels, and how they pool.

Legend: K, L side of a kernel before and after.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal

from hf_finetune.models.families import refusal
from hf_finetune.models.surgery.rebuild import rebuild
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

# What a config cannot say, plain transformers cannot reload.
INEXPRESSIBLE = (
    "has none in its config, so plain transformers could not load the result; use an efficientnet or poolformer"
)


@configclass
class SetKernelSize:
    """Change the kernel size of a convolutional network's stages, the weights carried over.

    EfficientNet: its depthwise convolutions. PoolFormer: the convolutions that embed the patches of each stage. Padding
    grows and shrinks with the kernel, so every layer's output keeps its size.
    """

    size: int
    """Side of the kernel in pixels; by an even number more or less than now, so that the middle stays the middle."""
    stages: tuple[int, ...] | None = None
    """Stages whose kernels change, counted from 0. None: all."""
    fill: Literal["centre", "resize"] = "centre"
    """centre: a larger kernel has the old one in its middle and zeros around it, which computes the same; a smaller one is
    the old one's middle. resize: every weight is spread over the area that it covers in the new kernel, the sum kept."""

    def refuse(self, config: PreTrainedConfig) -> None:
        """Write the new sizes to `config`.

        Raises:
            InputError: the family's config says no kernel size, has not this many stages, or the size is none that keeps
                the middle in the middle.
        """
        match config.model_type:
            case "efficientnet":
                sizes, paddings = list(config.kernel_sizes), None
            case "poolformer":
                sizes, paddings = list(config.patch_sizes), list(config.padding)
            case other:
                raise refusal("SetKernelSize", f"{other} {INEXPRESSIBLE} checkpoint")
        stages = range(len(sizes)) if self.stages is None else self.stages
        for stage in stages:
            if not 0 <= stage < len(sizes):
                raise refusal(
                    "SetKernelSize", f"stages: {config.model_type} has stages 0 to {len(sizes) - 1}, got {stage}"
                )
            more = self.size - sizes[stage]
            # EfficientNet's padding of a strided convolution is negative below 3; PoolFormer's is in its config.
            smallest = 3 if paddings is None else sizes[stage] - 2 * paddings[stage]
            if more % 2 or self.size < max(1, smallest):
                expected = f"an even number more or less, and at least {max(1, smallest)}"
                raise refusal(
                    "SetKernelSize",
                    f"size: stage {stage} has kernels of {sizes[stage]}; expected {expected}, got {self.size}",
                )
            sizes[stage] = self.size
            if paddings is not None:
                paddings[stage] += more // 2
        if paddings is None:
            config.kernel_sizes = sizes
        else:
            config.patch_sizes, config.padding = sizes, paddings

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with kernels of the new size."""
        config = copy.deepcopy(model.config)
        self.refuse(config)
        change = centred if self.fill == "centre" else spread
        return rebuild(model, config, lambda _, kernel, shape: change(kernel, shape[-1]))


@configclass
class SetPooling:
    """Change how a convolutional network pools. No weight changes, but what the network computes does."""

    kind: Literal["mean", "max"] | None = None
    """EfficientNet: what its head reads of every feature map. None: as it is."""
    size: int | None = None
    """PoolFormer: side of the window whose mean its layers mix, an odd number. None: as it is."""

    def refuse(self, config: PreTrainedConfig) -> None:
        """Write the new pooling to `config`.

        Raises:
            InputError: the family's config does not say this, or nothing is asked for.
        """
        family = config.model_type
        if self.kind is None and self.size is None:
            raise refusal("SetPooling", "expected kind (efficientnet) or size (poolformer)")
        if family not in ("efficientnet", "poolformer"):
            raise refusal("SetPooling", f"{family} {INEXPRESSIBLE} checkpoint")
        if family == "efficientnet" and self.size is not None:
            raise refusal("SetPooling", "size: efficientnet has none, its pooling has kind mean or max")
        if family == "poolformer" and self.kind is not None:
            raise refusal("SetPooling", "kind: poolformer always takes the mean; give size")
        if self.size is not None:
            if self.size < 3 or self.size % 2 == 0:
                raise refusal("SetPooling", f"size: expected an odd number from 3, got {self.size}")
            config.pool_size = self.size
        if self.kind is not None:
            config.pooling_type = self.kind

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with the new pooling."""
        config = copy.deepcopy(model.config)
        self.refuse(config)
        return rebuild(model, config, lambda name, *_: _unchanged(name))


def _unchanged(name: str) -> torch.Tensor:
    raise AssertionError(f"{name}: pooling has no weights")


def centred(kernel: torch.Tensor, size: int) -> torch.Tensor:
    """The kernel (..., K, K) in the middle of zeros, or its middle; (..., L, L)."""
    import torch

    around = (size - kernel.shape[-1]) // 2
    return torch.nn.functional.pad(kernel, (around,) * 4)


def spread(kernel: torch.Tensor, size: int) -> torch.Tensor:
    """The kernel (..., K, K) stretched to (..., L, L): a new weight is the sum of what it covers of the old ones.

    Its sum, which is the answer to a constant picture, stays.
    """
    import torch

    old = torch.arange(kernel.shape[-1], dtype=torch.float64)[:, None] / kernel.shape[-1]
    new = torch.arange(size, dtype=torch.float64) / size
    ends = torch.minimum(old + 1 / kernel.shape[-1], new + 1 / size)
    # Shares of the old weight (row) that lie in the new one (column).
    share_KL = (ends - torch.maximum(old, new)).clamp(min=0) * kernel.shape[-1]
    return (share_KL.T @ kernel.double() @ share_KL).to(kernel.dtype)
