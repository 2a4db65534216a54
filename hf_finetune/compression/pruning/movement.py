"""Movement pruning: groups whose weights move away from zero in training remain (arXiv:2005.07683, arXiv:2109.04838).

Legend: G groups of features of a site.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hf_finetune.compression.pruning.masks import LearnedMasks, largest
from hf_finetune.compression.pruning.sites import Site


class Movement(LearnedMasks):
    """Scores that sum up, over the steps, by how much the loss falls to first order if a group counts more.

    A group's mask is 1 if its score is among the largest ones of its site, else 0. Its gradient, the sum of weight
    times gradient of the weights that read the group, reaches removed groups, too, so that they can come back.
    """

    def __init__(self, sites: Sequence[Site], share: float, device: torch.device) -> None:
        super().__init__(sites, share, device)
        self.scores = [torch.zeros(site.groups, device=device) for site in sites]

    def drawn(self, share: float) -> list[torch.Tensor]:
        """Return the masks of the largest scores."""
        return [mask.requires_grad_() for mask in self._largest(share)]

    def after_backward(self) -> None:
        """Add up the gradients of the masks."""
        for scores_G, mask_G in zip(self.scores, self.masks, strict=True):
            if mask_G.grad is not None:
                scores_G -= mask_G.grad

    def final(self) -> list[torch.Tensor]:
        """Return the masks of the largest scores."""
        return self._largest(self.share)

    def _largest(self, share: float) -> list[torch.Tensor]:
        return [largest(scores, site.kept(share)) for scores, site in zip(self.scores, self.sites, strict=True)]
