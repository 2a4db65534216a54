"""Stochastic gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.errors import InputError
from hf_finetune.training.optim.base import OptimizerConfig, ParameterGroup
from hf_finetune.utils.config import Fraction, configclass

if TYPE_CHECKING:
    import torch


@configclass
class SGD(OptimizerConfig):
    """Stochastic gradient descent with momentum. Weight decay is part of the gradient."""

    momentum: Fraction = 0.9
    """Decay of the momentum. 0: no momentum."""
    nesterov: bool = False
    """Use Nesterov momentum."""

    # Untuned: gives updates of about AdamW's size where gradients are near 0.01.
    rate_factor = 100.0

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise InputError("SGD.nesterov: expected false without momentum, got true; set momentum above 0")

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """Build torch's optimizer."""
        import torch

        # Not the fused one: after an overflow in the first step its momentum is uninitialized memory (torch 2.13).
        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, nesterov=self.nesterov, foreach=True)
