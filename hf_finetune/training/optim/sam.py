"""Sharpness-aware minimization: the gradient is taken where the loss nearby is worst, the step from where the weights
are.

SAM (arXiv:2010.01412) climbs from w to w + e(w), e = rho g / |g|, with g the gradient of the whole step at w. ASAM
(arXiv:2102.11600) climbs by e = rho T^2 g / |T g|, with T = |w| + 0.01 for every element of a matrix, so that the
result does not change when one layer is scaled up and the next one down; T = 1 for vectors.

A step costs two forward and two backward passes, and the memory of a second copy of the trained weights meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import TrainerState

from hf_finetune.training.hooks import Batch, Hook
from hf_finetune.training.random_state import RandomState

# Keeps a weight of 0 within reach of the climb.
ETA = 0.01


@dataclass(frozen=True)
class Sharpness:
    """How far to climb."""

    rho: float
    """Length of the climb; 0.05 in the paper for SAM, 0.5 to 2 for ASAM."""
    adaptive: bool = False
    """ASAM: measured relative to the size of each weight."""


@contextmanager
def climbed(parameters: Iterable[nn.Parameter], sharpness: Sharpness) -> Iterator[None]:
    """Inside, the parameters stand at w + e(w), by their gradients as they are on entry; after it at w, to the bit.

    Scaling all gradients changes nothing, so those that a GradScaler scaled need not be unscaled. Where the gradient is
    0 or not finite there is no direction, and no climb. Parameters without a gradient stay. Of a row-sparse gradient
    (that of word embeddings) only the rows that it has move and are kept; the gradients themselves stay as they are.
    """
    moves = [_Move(p, sharpness.adaptive) for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([move.scaled for move in moves])
    can_climb = bool(torch.isfinite(norm) and norm > 0)
    try:
        if can_climb:
            for move in moves:
                move.climb(sharpness.rho / norm)
        yield
    finally:
        if can_climb:
            for move in moves:
                move.go_back()


class _Move:
    """One parameter's way up and back.

    Args:
        parameter: with a gradient.
        adaptive: see `Sharpness.adaptive`.
    """

    @torch.no_grad()
    def __init__(self, parameter: nn.Parameter, adaptive: bool) -> None:
        gradient = parameter.grad
        assert gradient is not None
        self.parameter, self.rows = parameter, None
        if gradient.is_sparse:
            # A word that occurs twice in a batch is summed first.
            gradient = gradient.coalesce()
            self.rows, gradient = gradient.indices()[0], gradient.values()
            self.before = parameter[self.rows]
        else:
            self.before = parameter.detach().clone()
        self.scale = self.before.abs().add_(ETA) if adaptive and parameter.ndim > 1 else None
        self.scaled = gradient if self.scale is None else gradient * self.scale
        """T g"""

    @torch.no_grad()
    def climb(self, factor: torch.Tensor) -> None:
        """Add `factor` T^2 g."""
        direction = self.scaled if self.scale is None else self.scaled * self.scale
        self._set(self.before + factor.to(direction.device) * direction)

    @torch.no_grad()
    def go_back(self) -> None:
        """As it was."""
        self._set(self.before)

    def _set(self, value: torch.Tensor) -> None:
        if self.rows is None:
            self.parameter.copy_(value)
        else:
            self.parameter[self.rows] = value


class SAM(Hook):
    """Takes a step's gradient from where its own climb leads: over the same micro-batches with the same random numbers.

    So climb and gradient are of one function, that of the network with this step's dropout, and what is drawn later is
    as without. It comes after all hooks that change a micro-batch.

    Args:
        sharpness: how far to climb.
        device: where the run computes.
    """

    passes = 2

    def __init__(self, sharpness: Sharpness, device: torch.device) -> None:
        self.sharpness, self.device = sharpness, device
        self._micro_batches: list[Batch] = []
        self._before_step = RandomState(device)

    def on_batch(self, batch: Batch, state: TrainerState) -> Batch:
        """Remember the step's micro-batches, and the random numbers before the first of them."""
        if not self._micro_batches:
            self._before_step = RandomState(self.device)
        self._micro_batches.append(batch)
        return batch

    def after_backward(self, model: nn.Module, repeat: Callable[[Batch, bool], None]) -> None:
        """Replace the step's gradient by the one after the climb."""
        self._before_step.restore()
        micro_batches, self._micro_batches = self._micro_batches, []
        with climbed(model.parameters(), self.sharpness):
            model.zero_grad()
            for batch in micro_batches:
                repeat(batch, batch is micro_batches[-1])
