"""AdamW with 8-bit states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.training.optim.base import AdamConfig, ParameterGroup
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch


@configclass
class AdamW8bit(AdamConfig):
    """AdamW with 8-bit states (arXiv:2110.02861), by bitsandbytes: `pip install bitsandbytes`."""

    package = "bitsandbytes"

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """Build bitsandbytes' optimizer."""
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(groups, lr=lr, betas=(self.beta1, self.beta2), eps=self.eps)
