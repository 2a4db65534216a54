"""Where neurons and attention heads are in a network, and how some of them are removed.

Both are groups of features that one linear layer reads, its reader, and others write.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.compression.pruning.linear import keep_outputs
from hf_finetune.models.modules import submodule


@dataclass(frozen=True)
class Site:
    """The neurons of a feed-forward network, or the heads of an attention."""

    writers: tuple[str, ...]
    """Full names of the linear layers whose outputs the features are."""
    reader: str
    """Full name of the linear layer whose inputs they are."""
    groups: int
    """Number of neurons or heads."""
    size: int = 1
    """Features of a group."""
    gates: int = 1
    """Outputs of a writer per feature: 2 in gated units, whose second half of the outputs are the gates."""

    def kept(self, share: float) -> int:
        """Return the number of groups that remain if this share is removed: at least one."""
        return max(1, round(self.groups * (1 - share)))

    def features(self, groups_G: torch.Tensor) -> torch.Tensor:
        """Return the indices of the features of groups, (M,)."""
        return (groups_G[:, None] * self.size + torch.arange(self.size)).flatten()

    def reading(self, model: nn.Module) -> nn.Linear:
        """Return the reader."""
        return submodule(model, self.reader, nn.Linear)


def keep_features(model: PreTrainedModel, site: Site, reader: nn.Linear, kept_M: torch.Tensor) -> None:
    """Put a reader of fewer features in place, and keep these features of its writers.

    Args:
        kept_M: their indices.
    """
    rows = torch.cat([kept_M + gate * site.groups * site.size for gate in range(site.gates)])
    for name in site.writers:
        model.set_submodule(name, keep_outputs(submodule(model, name, nn.Linear), rows))
    model.set_submodule(site.reader, reader)
