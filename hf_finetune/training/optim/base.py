"""The base classes of the optimizers that a recipe can name. Cheap to import.

An optimizer is one file with a frozen dataclass of its settings: an `UpdateFormula`, whose update is written in the
file, or an `OptimizerConfig` that builds a `torch.optim.Optimizer` of a library.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from hf_finetune.utils.config import Fraction, Positive, configclass

if TYPE_CHECKING:
    import torch

    from hf_finetune.training.optim.foreach import GroupStep

ParameterGroup: TypeAlias = dict[str, Any]
"""torch's group of parameters (`params`, `lr`, `weight_decay`). `rate_groups` adds `part`, a name for the log
("layer 3", "head"), and `matrix`: whether all are matrices of the encoder's layers."""


class OptimizerConfig(ABC):
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
    """Whether the evaluated and saved weights are an average over the steps. Neither exact zeros nor further averages
    survive it."""

    def highest_rate(self, step: int) -> float:
        """Return the rate above which the `step`-th update (from 1) grows no further."""
        return math.inf

    @abstractmethod
    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """Build the optimizer over these parameters. `lr` is the peak rate of groups that name none."""


class UpdateFormula(OptimizerConfig):
    """Settings of an optimizer with the formula of its update."""

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """Build the optimizer that applies the formula to every group."""
        from hf_finetune.training.optim.foreach import ForeachOptimizer

        return ForeachOptimizer(groups, lr, self.initial_state, self.update)

    @abstractmethod
    def initial_state(self, weight: torch.Tensor) -> dict[str, Any]:
        """Return the state of a weight before its first step. Checkpoints hold it."""

    @abstractmethod
    def update(self, step: GroupStep) -> None:
        """Change weights and states in place, without gradients."""


@configclass
class AdamConfig(OptimizerConfig):
    """Settings of AdamW and its variants."""

    beta1: Fraction = 0.9
    """Decay of the running mean of the gradients."""
    beta2: Fraction = 0.999
    """Decay of the running mean of the squared gradients."""
    eps: Positive = 1e-8
    """Added to the root of that mean in the denominator."""
