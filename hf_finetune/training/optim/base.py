"""What all optimizers of a recipe share. Cheap to import.

An optimizer is one file: a frozen dataclass of its settings, which also builds it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from hf_finetune.utils.config import Fraction, Positive, configclass

if TYPE_CHECKING:
    import torch


ParameterGroup: TypeAlias = dict[str, Any]
"""torch's group of parameters (`params`, `lr`, `weight_decay`). `rate_groups` adds `part`, a name for the log
("layer 3", "head"), and `matrix`: whether all are matrices of the encoder's layers."""


class OptimizerConfig:
    """Settings of an optimizer. `train` holds the learning rate and the weight decay of all optimizers."""

    rate_factor = 1.0
    """Default learning rate as a multiple of AdamW's."""
    splits_matrices = False
    """Whether the matrices of the encoder's layers are groups of their own."""
    default_schedule: Literal["linear", "constant_with_warmup"] = "linear"
    """Learning-rate schedule where the recipe names none."""
    package: str | None = None
    """Package that must be installed."""
    averages_weights = False
    """Whether the evaluated and saved weights are an average over the steps: exact zeros and further averages do not
    survive it."""

    def highest_rate(self, step: int) -> float:
        """Return the rate above which the `step`-th update (from 1) grows no further."""
        return math.inf

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """Build the optimizer over these parameters; `lr` is the peak rate of groups that name none."""
        raise NotImplementedError


@configclass
class AdamConfig(OptimizerConfig):
    """Settings of AdamW and its variants."""

    beta1: Fraction = 0.9
    """Decay of the running mean of the gradients."""
    beta2: Fraction = 0.999
    """Decay of the running mean of the squared gradients."""
    eps: Positive = 1e-8
    """Added to the root of that mean in the denominator."""
