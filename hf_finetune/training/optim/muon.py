"""Muon, for the matrices of the encoder's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from hf_finetune.training.optim.base import OptimizerConfig, ParameterGroup
from hf_finetune.utils.config import Fraction, Positive, between, configclass

if TYPE_CHECKING:
    import torch


@configclass
class Muon(OptimizerConfig):
    """Orthogonalized momentum for the matrices inside the encoder's layers (kellerjordan.github.io/posts/muon), scaled
    to AdamW's size of update (arXiv:2502.16982); AdamW for embeddings, head and vectors."""

    momentum: Fraction = 0.95
    """Decay of the momentum."""
    nesterov: bool = True
    """Use Nesterov momentum."""
    ns_steps: Annotated[int, between(1, 99)] = 5
    """Newton-Schulz iterations that orthogonalize."""
    beta1: Fraction = 0.9
    """beta1 of AdamW, which updates all other weights."""
    beta2: Fraction = 0.999
    """beta2 of AdamW."""
    eps: Positive = 1e-8
    """eps of AdamW."""

    splits_matrices = True

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """Build both optimizers as one."""
        from hf_finetune.training.optim.muon_with_adamw import MuonWithAdamW

        return MuonWithAdamW(
            sorted(groups, key=lambda group: not group["matrix"]),
            lr=lr,
            muon={"momentum": self.momentum, "nesterov": self.nesterov, "ns_steps": self.ns_steps},
            adamw={"betas": (self.beta1, self.beta2), "eps": self.eps, "fused": True},
        )
