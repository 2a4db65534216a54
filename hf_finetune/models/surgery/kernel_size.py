"""Surgery on the kernels of convolutional networks.

Legend: K, L side of a kernel before and after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hf_finetune.models.families import FAMILIES
from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig


@configclass
class SetKernelSize(Operation):
    """Change the kernel size of a convolutional network's stages, the weights carried over.

    EfficientNet: its depthwise convolutions. PoolFormer: the convolutions that embed the patches of each stage. Padding
    grows and shrinks with the kernel, so every layer's output keeps its size.
    """

    size: int
    """Side of the kernel in pixels; by an even number more or less than now, so that the middle stays the middle."""
    stages: tuple[int, ...] | None = None
    """Stages whose kernels change, counted from 0. None: all."""
    fill: Literal["centre", "resize"] = "centre"
    """centre: a larger kernel has the old one in its middle and zeros around it, which computes the same; a smaller one
    is the old one's middle. resize: every weight is spread over the area that it covers in the new kernel, the sum
    kept."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Write the new sizes to `config`.

        Raises:
            InputError: the family's config has no kernel size, has not this many stages, or the size is none that keeps
                the middle in the middle.
        """
        family = config.model_type
        fields = config.to_dict() if family in FAMILIES else {}
        name = next((name for name in ("kernel_sizes", "patch_sizes") if name in fields), None)
        if name is None:
            why = "has none in its config, so plain transformers could not load the result"
            raise self.refusal(f"{family} {why}; use an efficientnet or poolformer checkpoint")
        sizes, paddings = list(fields[name]), list(fields.get("padding", ()))
        for stage in range(len(sizes)) if self.stages is None else self.stages:
            if not 0 <= stage < len(sizes):
                raise self.refusal(f"stages: {family} has stages 0 to {len(sizes) - 1}, got {stage}")
            more = self.size - sizes[stage]
            # EfficientNet's padding of a strided convolution is negative below 3; PoolFormer's is in its config.
            smallest = max(1, sizes[stage] - 2 * paddings[stage] if paddings else 3)
            if more % 2 or self.size < smallest:
                expected = f"an even number more or less, and at least {smallest}"
                now = f"stage {stage} has kernels of {sizes[stage]}"
                raise self.refusal(f"size: {now}; expected {expected}, got {self.size}")
            sizes[stage] = self.size
            if paddings:
                paddings[stage] += more // 2
        setattr(config, name, sizes)
        if paddings:
            config.padding = paddings

    def reshaped(self, config: PreTrainedConfig, name: str, kernel: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """A kernel of the new size."""
        return centred(kernel, shape[-1]) if self.fill == "centre" else spread(kernel, shape[-1])


def centred(kernel: torch.Tensor, size: int) -> torch.Tensor:
    """The kernel (..., K, K) in the middle of zeros, or its middle; (..., L, L)."""
    import torch

    around = (size - kernel.shape[-1]) // 2
    return torch.nn.functional.pad(kernel, (around,) * 4)


def spread(kernel: torch.Tensor, size: int) -> torch.Tensor:
    """The kernel (..., K, K) stretched to (..., L, L): a new weight is the sum of what it covers of the old ones.

    Its sum, which is the output for a constant image, stays.
    """
    import torch

    old = torch.arange(kernel.shape[-1], dtype=torch.float64)[:, None] / kernel.shape[-1]
    new = torch.arange(size, dtype=torch.float64) / size
    ends = torch.minimum(old + 1 / kernel.shape[-1], new + 1 / size)
    # Shares of the old weight (row) that lie in the new one (column).
    share_KL = (ends - torch.maximum(old, new)).clamp(min=0) * kernel.shape[-1]
    return (share_KL.T @ kernel.double() @ share_KL).to(kernel.dtype)
