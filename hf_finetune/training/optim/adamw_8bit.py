"""AdamW with its states in 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.training.optim.base import OptimizerConfig, ParameterGroup
from hf_finetune.utils.config import Fraction, Positive, configclass

if TYPE_CHECKING:
    import torch


@configclass
class AdamW8bit(OptimizerConfig):
    """AdamW with its states in 8 bits (arXiv:2110.02861), by bitsandbytes: `pip install bitsandbytes`."""

    beta1: Fraction = 0.9
    """As AdamW's."""
    beta2: Fraction = 0.999
    """As AdamW's."""
    eps: Positive = 1e-8
    """As AdamW's."""

    package = "bitsandbytes"

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """See `OptimizerConfig.build`."""
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(groups, lr=lr, betas=(self.beta1, self.beta2), eps=self.eps)
