"""AdamW, the default; for texts with a form of its own that leaves alone the words that do not occur."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.training.optim.base import OptimizerConfig, ParameterGroup
from hf_finetune.utils.config import Fraction, Positive, configclass

if TYPE_CHECKING:
    import torch


@configclass
class AdamW(OptimizerConfig):
    """Adam with decoupled weight decay (arXiv:1711.05101), torch's fused one."""

    beta1: Fraction = 0.9
    """Share of the past that the mean of the gradients keeps at a step."""
    beta2: Fraction = 0.999
    """Share of the past that the mean of their squares keeps at a step."""
    eps: Positive = 1e-8
    """Added to the root of that mean before it divides."""

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """See `OptimizerConfig.build`. With a GradScaler the fused one leaves out a step that overflowed by itself."""
        import torch

        return torch.optim.AdamW(groups, lr=lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)

    def build_sparse(
        self, groups: list[ParameterGroup], lr: float, *, table: torch.nn.Parameter, rows: torch.Tensor
    ) -> torch.optim.Optimizer:
        """Likewise, for a table of word embeddings of which only `rows` occur, see `VocabularyAdamW`."""
        from hf_finetune.training.optim.vocabulary_adamw import VocabularyAdamW

        betas = (self.beta1, self.beta2)
        return VocabularyAdamW(groups, table=table, rows=rows, lr=lr, betas=betas, eps=self.eps, fused=True)
