"""Learned gates: hard-concrete variables, whose expected number above zero is held at a budget.

The distribution is that of L0 regularization (arXiv:1712.01312). The budget is a constraint with Lagrange multipliers,
as in CoFi (arXiv:2204.00408).

Legend: G groups of features of a site.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from hf_finetune.compression.pruning.masks import LearnedMasks, largest
from hf_finetune.compression.pruning.sites import Site

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
"""Of the concrete distribution, and the interval to which it is stretched before it is cut to [0, 1]."""
FIRST_LOGIT = 3.0
"""Of all gates: 98.9% of them are open at the start."""
LEARNING_RATE = 0.05
"""Of Adam, for gates and multipliers."""


def gate_values(logits: torch.Tensor, uniform: torch.Tensor | None = None) -> torch.Tensor:
    """Return gates in [0, 1].

    Args:
        logits: locations of the gates (`log alpha`).
        uniform: random numbers in (0, 1) of the same shape. None: the gates without noise, as after training.
    """
    location = logits if uniform is None else (uniform.logit() + logits) / TEMPERATURE
    return (torch.sigmoid(location) * (HIGH - LOW) + LOW).clamp(0, 1)


def open_probability(logits: torch.Tensor) -> torch.Tensor:
    """Return the probability of each gate to be above 0."""
    return torch.sigmoid(logits - TEMPERATURE * math.log(-LOW / HIGH))


class HardConcrete(LearnedMasks):
    """Gates whose locations are learned, so that the expected share of closed ones of each site follows the schedule.

    The loss has for each site `l1 * d + l2 * d ** 2`, with the difference d of the two shares. The multipliers l1 and
    l2 change as long as there is a difference.
    """

    def __init__(self, sites: Sequence[Site], share: float, device: torch.device, seed: int = 0) -> None:
        super().__init__(sites, share, device)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.logits = [torch.full((site.groups,), FIRST_LOGIT, device=device, requires_grad=True) for site in sites]
        self.multipliers = torch.zeros(2, len(sites), device=device, requires_grad=True)
        groups: list[dict[str, Any]] = [{"params": self.logits}, {"params": [self.multipliers], "maximize": True}]
        self.optimizer = torch.optim.Adam(groups, lr=LEARNING_RATE)
        self.target = 0.0

    def drawn(self, share: float) -> list[torch.Tensor]:
        """Return random gates."""
        self.target = share
        return [
            gate_values(logits_G, torch.rand(len(logits_G), generator=self.generator, device=self.device).clamp(1e-6))
            for logits_G in self.logits
        ]

    def penalty(self) -> torch.Tensor | float:
        """Return what the difference from the budget costs."""
        if self.is_settled:
            return 0.0
        closed = torch.stack([1 - open_probability(logits_G).mean() for logits_G in self.logits])
        difference = closed - self.target
        linear, quadratic = self.multipliers
        return (linear * difference + quadratic * difference.square()).sum()

    def after_backward(self) -> None:
        """Change the locations of the gates, and the multipliers."""
        if not self.is_settled:
            self.optimizer.step()
            self.optimizer.zero_grad()

    def final(self) -> list[torch.Tensor]:
        """Return the gates without noise, of those that are most likely open."""
        pairs = zip(self.logits, self.sites, strict=True)
        # A gate may be among the largest and closed: it then gets the smallest factor, as its site needs a group.
        return [gate_values(g).clamp(1e-3) * largest(g.detach(), site.kept(self.share)) for g, site in pairs]
