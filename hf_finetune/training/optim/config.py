"""Which optimiser, and what it is told: one frozen dataclass each, no more than a recipe needs to import.

The learning rate and the weight decay stand in `train`, for all of them; `optimizers.build` makes the optimiser.
"""

from __future__ import annotations

import importlib.util
import math
from typing import TypeAlias

from hf_finetune.errors import InputError
from hf_finetune.utils.config import configclass


@configclass
class AdamW:
    """Adam with decoupled weight decay (arXiv:1711.05101), torch's fused one."""

    beta1: float = 0.9
    """Share of the past that the mean of the gradients keeps at a step."""
    beta2: float = 0.999
    """Share of the past that the mean of their squares keeps at a step."""
    eps: float = 1e-8
    """Added to the root of that mean before it divides."""


@configclass
class SGD:
    """Stochastic gradient descent with momentum; its weight decay is part of the gradient."""

    momentum: float = 0.9
    """Share of the last update that the next one keeps. 0: none."""
    nesterov: bool = False
    """Look ahead by one step of the momentum."""


@configclass
class Adafactor:
    """Adafactor (arXiv:1804.04235), torch's: row and column sums of squares in place of all squares; the rate is relative to
    the size of the weights, and never above 1 / sqrt(step)."""

    beta2_decay: float = -0.8
    """The mean of the squares forgets by step^beta2_decay."""
    eps: float = 1e-3
    """Least size of a weight that the rate is multiplied by."""
    clip_threshold: float = 1.0
    """Updates of a larger root mean square are scaled down to it."""


@configclass
class Lion:
    """The sign of a momentum (arXiv:2302.06675): one state per weight in place of AdamW's two, and a lower rate."""

    beta1: float = 0.9
    """Weight of the momentum in what the sign is taken of."""
    beta2: float = 0.99
    """Share of the past that the momentum keeps at a step."""


@configclass
class Muon:
    """Orthogonalised momentum for the matrices inside the encoder's layers (kellerjordan.github.io/posts/muon), scaled to
    AdamW's size of update (arXiv:2502.16982); AdamW for embeddings, head and vectors."""

    momentum: float = 0.95
    """Share of the past that the momentum keeps at a step."""
    nesterov: bool = True
    """Look ahead by one step of the momentum."""
    ns_steps: int = 5
    """Iterations that orthogonalise."""
    beta1: float = 0.9
    """Of AdamW, for the rest."""
    beta2: float = 0.999
    """Of AdamW, for the rest."""
    eps: float = 1e-8
    """Of AdamW, for the rest."""


@configclass
class ScheduleFree:
    """AdamW whose average over the steps takes the place of a falling rate (arXiv:2405.15682): what is evaluated and saved
    is the average. Its schedule is constant_with_warmup."""

    beta1: float = 0.9
    """Where between the fast weights (0) and their average (1) the gradient is taken."""
    beta2: float = 0.999
    """Share of the past that the mean of the squares keeps at a step."""
    eps: float = 1e-8
    """Added to the root of that mean before it divides."""
    r: float = 0.0
    """A step counts in the average by its number to this power."""
    weight_lr_power: float = 2.0
    """And by the highest rate so far to this power."""


@configclass
class AdamW8bit:
    """AdamW with its states in 8 bits (arXiv:2110.02861), by bitsandbytes: `pip install bitsandbytes`."""

    beta1: float = 0.9
    """As AdamW's."""
    beta2: float = 0.999
    """As AdamW's."""
    eps: float = 1e-8
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


def check_optimizer(optimizer: Optimizer) -> None:
    """Refuse values that the optimiser cannot use, and a package that is not there.

    Raises:
        InputError: naming the field, the value and the range.
    """

    def refuse(field: str, value: object, expected: str) -> None:
        raise InputError(f"optim.optimizer.{field}: expected {expected}, got {value!r}")

    for field, value in vars(optimizer).items():
        if field in ("beta1", "beta2", "momentum") and not 0 <= value < 1:
            refuse(field, value, "at least 0 and below 1")
        if field in ("eps", "r", "weight_lr_power") and value < 0:
            refuse(field, value, "0 or more")
    if not isinstance(optimizer, Adafactor) and getattr(optimizer, "eps", 1.0) == 0:
        refuse("eps", 0, "above 0: the update of a weight without a gradient would be 0 / 0")
    match optimizer:
        case SGD(momentum=0, nesterov=True):
            refuse("nesterov", True, "false without momentum")
        case Adafactor() if optimizer.beta2_decay > 0:
            refuse("beta2_decay", optimizer.beta2_decay, "0 or less")
        case Adafactor() if optimizer.clip_threshold < 1:
            refuse("clip_threshold", optimizer.clip_threshold, "at least 1")
        case Muon() if not 1 <= optimizer.ns_steps < 100:
            refuse("ns_steps", optimizer.ns_steps, "1 to 99")
        case ScheduleFree(beta1=0):
            refuse("beta1", 0, "above 0")
        case AdamW8bit() if importlib.util.find_spec("bitsandbytes") is None:
            raise InputError("optim.optimizer: AdamW8bit needs bitsandbytes: pip install bitsandbytes, or use AdamW")
