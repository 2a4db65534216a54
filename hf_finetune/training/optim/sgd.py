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
    """Stochastic gradient descent with momentum; its weight decay is part of the gradient."""

    momentum: Fraction = 0.9
    """Share of the last update that the next one keeps. 0: none."""
    nesterov: bool = False
    """Look ahead by one step of the momentum."""

    # Untuned: brings an update to about AdamW's size where gradients are near 0.01.
    rate_factor = 100.0

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise InputError("SGD.nesterov: expected false without momentum, got True")

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """See `OptimizerConfig.build`."""
        import torch

        # Not the fused one: when its first step overflowed, its momentum begins with whatever lay in memory (2.13).
        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, nesterov=self.nesterov, foreach=True)
