"""Surgery on the kernel size of convolutional networks.

Legend: K, L side of a kernel before and after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hf_finetune.models.families import FAMILIES
from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import Count, CountOrZero, configclass

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig


@configclass
class SetKernelSize(Operation):
    """Change the kernel size of a convolutional network's stages and carry the weights over.

    EfficientNet: its depthwise convolutions. PoolFormer: the convolutions that embed the patches of each stage. The
    padding follows the kernel size, so the output size of every layer stays the same.
    """

    size: Count
    """Side of the kernel in pixels. It must differ from the current one by an even number, so that the center stays."""
    stages: tuple[CountOrZero, ...] | None = None
    """Stages whose kernels change, counted from 0. None: all."""
    fill: Literal["centre", "resize"] = "centre"
    """centre: pad the kernel with zeros, which keeps the outputs, or crop it to its center. resize: spread every weight
    over the area that it covers in the new kernel; the sum stays the same."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Set the kernel sizes in `config`.

        Raises:
            InputError: the config has no kernel size or no such stage, or the size is too small or off by an odd
                number.
        """
        family = config.model_type
        fields = config.to_dict() if family in FAMILIES else {}
        name = next((name for name in ("kernel_sizes", "patch_sizes") if name in fields), None)
        if name is None:
            why = "has none in its config, so plain transformers could not load the result"
            raise self.refusal(f"{family} {why}; use an efficientnet or poolformer checkpoint")
        sizes, paddings = list(fields[name]), list(fields.get("padding", ()))
        for stage in range(len(sizes)) if self.stages is None else self.stages:
            if stage >= len(sizes):
                raise self.refusal(f"stages: {family} has stages 0 to {len(sizes) - 1}, got {stage}")
            more = self.size - sizes[stage]
            # Below these sizes the padding of a convolution would be negative.
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
        """Return a kernel in its new size."""
        return center_kernel(kernel, shape[-1]) if self.fill == "centre" else spread_kernel(kernel, shape[-1])


def center_kernel(kernel: torch.Tensor, size: int) -> torch.Tensor:
    """Pad the kernel (..., K, K) with zeros, or crop it to its center; shape (..., L, L)."""
    import torch

    around = (size - kernel.shape[-1]) // 2
    return torch.nn.functional.pad(kernel, (around,) * 4)


def spread_kernel(kernel: torch.Tensor, size: int) -> torch.Tensor:
    """Stretch the kernel (..., K, K) to (..., L, L): a new weight is the sum of the old ones by the area it covers.

    The sum of the kernel, its output for a constant image, stays the same.
    """
    import torch

    old = torch.arange(kernel.shape[-1], dtype=torch.float64)[:, None] / kernel.shape[-1]
    new = torch.arange(size, dtype=torch.float64) / size
    ends = torch.minimum(old + 1 / kernel.shape[-1], new + 1 / size)
    # Share of each old weight (row) that lies in each new one (column).
    share_KL = (ends - torch.maximum(old, new)).clamp(min=0) * kernel.shape[-1]
    return (share_KL.T @ kernel.double() @ share_KL).to(kernel.dtype)
