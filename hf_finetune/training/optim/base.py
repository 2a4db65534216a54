"""What every optimizer of a recipe has in common; no more than a recipe needs to import.

An optimizer is one file: a frozen dataclass of its settings, which is also what builds it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import torch


ParameterGroup: TypeAlias = dict[str, Any]
"""As torch has it: `params` that are updated alike, their `lr` and `weight_decay`; and of `rate_groups` also `part`, a
name for people ("layer 3", "head"), and `matrix`, whether all are matrices within the encoder's layers that were split
off."""


class OptimizerConfig:
    """Settings of an optimizer. The learning rate and the weight decay stand in `train`, for all of them."""

    rate_factor = 1.0
    """Its default learning rate, as a multiple of AdamW's."""
    splits_matrices = False
    """Whether it takes the matrices within the encoder's layers as groups of their own."""
    default_schedule: Literal["linear", "constant_with_warmup"] = "linear"
    """Learning-rate schedule where the recipe names none."""
    package: str | None = None
    """What has to be installed for it."""
    averages_weights = False
    """Whether what is evaluated and saved is an average over the steps, which no zeros and no other average survive."""

    def highest_rate(self, step: int) -> float:
        """The rate above which the `step`-th update (from 1) grows no further."""
        return math.inf

    def build(self, groups: list[ParameterGroup], lr: float) -> torch.optim.Optimizer:
        """The optimizer over these parameters; `lr` is the peak rate of groups that name none."""
        raise NotImplementedError
