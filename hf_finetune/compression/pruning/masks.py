"""Masks of neurons and attention heads that are learned while the network trains.

Legend: G groups of features of a site, N features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hf_finetune.compression.pruning.sites import Site
from hf_finetune.compression.recovery import TrainingHook

FIRST, LAST = 0.1, 0.7
"""Shares of the training between which groups are removed. What follows trains the network that remains."""


def removed_share(done: float, final: float) -> float:
    """Return the share of the groups that is removed at a moment of the training, by the cubic schedule
    (arXiv:1710.01878): fast at first, when there are many groups to choose from.

    Args:
        done: share of the training.
        final: share that is removed in the end.
    """
    progress = min(max((done - FIRST) / (LAST - FIRST), 0.0), 1.0)
    return final * (1 - (1 - progress) ** 3)


class LearnedMasks(TrainingHook):
    """A factor for each group of each site, by which its features are multiplied in the forward pass.

    Args:
        share: of the groups of each site that is removed in the end.
        device: of the network.
    """

    def __init__(self, sites: Sequence[Site], share: float, device: torch.device) -> None:
        self.sites, self.share, self.device = sites, share, device
        self.masks = [torch.ones(site.groups, device=device) for site in sites]
        self.is_settled = False

    def before_step(self, done: float) -> None:
        """Set the masks of a step; from `LAST` on, the final ones."""
        if done >= LAST:
            self.settle()
        else:
            self.masks = self.drawn(removed_share(done, self.share))

    def settle(self) -> None:
        """Set the final masks, which stay as they are."""
        if not self.is_settled:
            self.masks, self.is_settled = [mask.detach() for mask in self.final()], True

    @abstractmethod
    def drawn(self, share: float) -> list[torch.Tensor]:
        """Return the masks of a step, of each site (G,), through which they learn by its gradient.

        Args:
            share: of the groups that is removed by now.
        """

    @abstractmethod
    def final(self) -> list[torch.Tensor]:
        """Return the final masks (G,): above 0 for as many groups as remain, and 0 for the others."""


def largest(scores_G: torch.Tensor, keep: int) -> torch.Tensor:
    """Return 1 for the groups of the largest scores, of which the first ones win a tie, and 0 for the others."""
    order = scores_G.argsort(descending=True, stable=True)
    return torch.zeros_like(scores_G).index_fill(0, order[:keep], 1.0)


@contextmanager
def masked(model: nn.Module, masks: LearnedMasks) -> Iterator[None]:
    """Multiply the features of each site by its mask, in the context."""

    def hook(number: int, size: int) -> Any:
        def apply(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            mask_N = masks.masks[number].repeat_interleave(size)
            return (inputs[0] * mask_N.to(inputs[0].dtype), *inputs[1:])

        return apply

    handles = [
        site.reading(model).register_forward_pre_hook(hook(number, site.size))
        for number, site in enumerate(masks.sites)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
