"""AdamW, the default optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.training.optim.base import AdamConfig, ParameterGroup
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import torch


@configclass
class AdamW(AdamConfig):
    """Adam with decoupled weight decay (arXiv:1711.05101), torch's fused one."""

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """Build the fused AdamW. With a GradScaler it skips a step that overflowed by itself."""
        import torch

        return torch.optim.AdamW(groups, lr=lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)

    def build_sparse(
        self, groups: list[ParameterGroup], lr: float, *, table: torch.nn.Parameter, rows: torch.Tensor
    ) -> torch.optim.Optimizer:
        """Build an AdamW that updates only some `rows` of the word embeddings `table`, see `VocabularyAdamW`."""
        from hf_finetune.training.optim.vocabulary_adamw import VocabularyAdamW

        betas = (self.beta1, self.beta2)
        return VocabularyAdamW(groups, table=table, rows=rows, lr=lr, betas=betas, eps=self.eps, fused=True)
