"""Which optimiser, and what it is told: one frozen dataclass each, no more than a recipe needs to import.

The learning rate and the weight decay stand in `train`, for all of them; `optimizers.build` makes the optimiser.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Annotated, TypeAlias

from annotated_types import Ge, Le

from hf_finetune.errors import InputError
from hf_finetune.utils.config import Fraction, NonNegative, OpenFraction, Positive, between, configclass


@configclass
class AdamW:
    """Adam with decoupled weight decay (arXiv:1711.05101), torch's fused one."""

    beta1: Fraction = 0.9
    """Share of the past that the mean of the gradients keeps at a step."""
    beta2: Fraction = 0.999
    """Share of the past that the mean of their squares keeps at a step."""
    eps: Positive = 1e-8
    """Added to the root of that mean before it divides."""


@configclass
class SGD:
    """Stochastic gradient descent with momentum; its weight decay is part of the gradient."""

    momentum: Fraction = 0.9
    """Share of the last update that the next one keeps. 0: none."""
    nesterov: bool = False
    """Look ahead by one step of the momentum."""

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise InputError("SGD.nesterov: expected false without momentum, got True")


@configclass
class Adafactor:
    """Adafactor (arXiv:1804.04235), torch's: row and column sums of squares in place of all squares; the rate is relative to
    the size of the weights, and never above 1 / sqrt(step)."""

    beta2_decay: Annotated[float, Le(0)] = -0.8
    """The mean of the squares forgets by step^beta2_decay."""
    eps: NonNegative = 1e-3
    """Least size of a weight that the rate is multiplied by."""
    clip_threshold: Annotated[float, Ge(1)] = 1.0
    """Updates of a larger root mean square are scaled down to it."""


@configclass
class Lion:
    """The sign of a momentum (arXiv:2302.06675): one state per weight in place of AdamW's two, and a lower rate."""

    beta1: Fraction = 0.9
    """Weight of the momentum in what the sign is taken of."""
    beta2: Fraction = 0.99
    """Share of the past that the momentum keeps at a step."""


@configclass
class Muon:
    """Orthogonalised momentum for the matrices inside the encoder's layers (kellerjordan.github.io/posts/muon), scaled to
    AdamW's size of update (arXiv:2502.16982); AdamW for embeddings, head and vectors."""

    momentum: Fraction = 0.95
    """Share of the past that the momentum keeps at a step."""
    nesterov: bool = True
    """Look ahead by one step of the momentum."""
    ns_steps: Annotated[int, between(1, 99)] = 5
    """Iterations that orthogonalise."""
    beta1: Fraction = 0.9
    """Of AdamW, for the rest."""
    beta2: Fraction = 0.999
    """Of AdamW, for the rest."""
    eps: Positive = 1e-8
    """Of AdamW, for the rest."""


@configclass
class ScheduleFree:
    """AdamW whose average over the steps takes the place of a falling rate (arXiv:2405.15682): what is evaluated and saved
    is the average. Its schedule is constant_with_warmup."""

    beta1: OpenFraction = 0.9
    """Where between the fast weights (0) and their average (1) the gradient is taken."""
    beta2: Fraction = 0.999
    """Share of the past that the mean of the squares keeps at a step."""
    eps: Positive = 1e-8
    """Added to the root of that mean before it divides."""
    r: NonNegative = 0.0
    """A step counts in the average by its number to this power."""
    weight_lr_power: NonNegative = 2.0
    """And by the highest rate so far to this power."""


@configclass
class AdamW8bit:
    """AdamW with its states in 8 bits (arXiv:2110.02861), by bitsandbytes: `pip install bitsandbytes`."""

    beta1: Fraction = 0.9
    """As AdamW's."""
    beta2: Fraction = 0.999
    """As AdamW's."""
    eps: Positive = 1e-8
    """As AdamW's."""


Optimizer: TypeAlias = AdamW | SGD | Adafactor | Lion | Muon | ScheduleFree | AdamW8bit

# AdamW's default learning rate times this. Lion's is its paper's advice. SGD's and Adafactor's bring an update to about
# AdamW's size where gradients are near 0.01 and weights near 0.04; none of them is tuned.
RATE = {SGD: 100.0, Adafactor: 25.0, Lion: 0.1}


def rate_factor(optimizer: Optimizer) -> float:
    """How much larger than AdamW's the default learning rate is."""
    return RATE.get(type(optimizer), 1.0)


def highest_rate(optimizer: Optimizer, step: int) -> float:
    """The rate above which the `step`-th update (from 1) grows no further."""
    return step**-0.5 if isinstance(optimizer, Adafactor) else math.inf


def check_installed(optimizer: Optimizer) -> None:
    """Refuse an optimizer whose package is not there.

    Raises:
        InputError: naming it, and how it is installed.
    """
    if isinstance(optimizer, AdamW8bit) and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("optim.optimizer: AdamW8bit needs bitsandbytes: pip install bitsandbytes, or use AdamW")
