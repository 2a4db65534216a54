"""Sharpness-aware minimization: take the gradient at the worst point nearby, and step from the present weights.

SAM (arXiv:2010.01412) climbs from w to w + e(w), e = rho g / |g|, with g the gradient of the whole step at w. ASAM
(arXiv:2102.11600) climbs by e = rho T^2 g / |T g|. T = |w| + 0.01 for the elements of a matrix, so that scaling one
layer up and the next one down changes nothing; T = 1 for vectors.

A step costs two forward and two backward passes, and the memory of a second copy of the trained weights.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import TrainerState

from hf_finetune.training.hooks import Batch, Hook

ETA = 0.01
"""ASAM's term that lets a weight of 0 climb."""


@dataclass(frozen=True)
class Sharpness:
    """How far to climb."""

    rho: float
    """Length of the climb; 0.05 in the paper for SAM, 0.5 to 2 for ASAM."""
    adaptive: bool = False
    """ASAM: measure the climb relative to the size of each weight."""


@contextmanager
def climbed(parameters: Iterable[nn.Parameter], sharpness: Sharpness) -> Iterator[None]:
    """Move parameters to w + e(w) in the block, by their gradients on entry; afterwards restore w exactly.

    The scale of the gradients does not matter, so a GradScaler's need not be unscaled. Nothing moves where the gradient
    is 0 or not finite. Of a row-sparse gradient (word embeddings) only the rows present move.
    """
    climbs = [_Climb(p, sharpness.adaptive) for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([climb.scaled for climb in climbs])
    can_climb = bool(torch.isfinite(norm) and norm > 0)
    try:
        if can_climb:
            for climb in climbs:
                climb.climb(sharpness.rho / norm)
        yield
    finally:
        if can_climb:
            for climb in climbs:
                climb.restore()


class _Climb:
    """The climb of one parameter that has a gradient.

    Args:
        adaptive: see `Sharpness.adaptive`.
    """

    @torch.no_grad()
    def __init__(self, parameter: nn.Parameter, adaptive: bool) -> None:
        gradient: Any = parameter.grad
        self.parameter = parameter
        self.rows: Any = ...
        if gradient.is_sparse:
            # Sum the entries of a repeated word first.
            gradient = gradient.coalesce()
            self.rows, gradient = gradient.indices()[0], gradient.values()
        self.before = parameter[self.rows].clone()
        self.scale = self.before.abs().add_(ETA) if adaptive and parameter.ndim > 1 else None
        self.scaled = gradient if self.scale is None else gradient * self.scale
        """T g"""

    @torch.no_grad()
    def climb(self, factor: torch.Tensor) -> None:
        """Add `factor` T^2 g."""
        direction = self.scaled if self.scale is None else self.scaled * self.scale
        self.parameter[self.rows] = self.before + factor.to(direction.device) * direction

    @torch.no_grad()
    def restore(self) -> None:
        """Return to w."""
        self.parameter[self.rows] = self.before


class _RandomState:
    """A copy of the state of torch's random number generators, on the CPU and on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.cpu = device, torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Draw the same numbers again from here on."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


class SAM(Hook):
    """Takes a step's gradient at the point of its climb, on the same micro-batches with the same random numbers.

    Climb and gradient then belong to one function: the network with this step's dropout. The random numbers that follow
    are those of training without SAM. Comes after all hooks that change micro-batches.

    Args:
        sharpness: how far to climb.
        device: device of the run.
    """

    passes = 2

    def __init__(self, sharpness: Sharpness, device: torch.device) -> None:
        self.sharpness, self.device = sharpness, device
        self._micro_batches: list[Batch] = []
        self._before_step = _RandomState(device)

    def on_batch(self, batch: Batch, state: TrainerState) -> Batch:
        """Store the step's micro-batches, and the random state before the first of them."""
        if not self._micro_batches:
            self._before_step = _RandomState(self.device)
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
