"""What a recipe can say of the loss: operations, cheap to import.

A loss is called as `(logits (B, C), labels (B,), label_smoothing) -> loss of each row (B,)`, class weights as `(rows of
each class, names) -> weight of each class`, both of length C. Weights are scaled so that their mean over the training
rows is 1: the learning rate keeps its meaning, and only the ratios of the weights count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from annotated_types import MinLen

from hf_finetune.errors import InputError
from hf_finetune.utils.config import Fraction, NonNegative, Positive, configclass

if TYPE_CHECKING:
    import torch


@configclass
class CrossEntropy:
    """Minus the logarithm of the label's probability."""

    def __call__(self, logits_BC: torch.Tensor, labels_B: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        """See `losses.cross_entropy`."""
        from hf_finetune.training.losses.classification import cross_entropy

        return cross_entropy(logits_BC, labels_B, label_smoothing=label_smoothing)


@configclass
class Focal:
    """Cross-entropy times (1 - p)^gamma, p the label's probability: rows that are right count less (arXiv:1708.02002)."""

    gamma: NonNegative = 2.0
    """How much less: 0 is cross-entropy."""

    def __call__(self, logits_BC: torch.Tensor, labels_B: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        """See `losses.focal`."""
        from hf_finetune.training.losses.classification import focal

        return focal(logits_BC, labels_B, gamma=self.gamma, label_smoothing=label_smoothing)


Loss = CrossEntropy | Focal


@configclass
class Balanced:
    """Every class weighs the same in sum: a row's weight is one over the rows of its class."""

    def __call__(self, counts: Sequence[float], names: Sequence[str]) -> tuple[float, ...]:
        """Weight of each class."""
        return _mean_of_one([1 / _at_least_one(n) for n in counts], counts)


@configclass
class EffectiveNumber:
    """Class-balanced loss: one over the effective number of rows of a class, (1 - beta^n) / (1 - beta) (arXiv:1901.05555)."""

    beta: Fraction = 0.999
    """0: no weights; towards 1: one over the rows of the class."""

    def __call__(self, counts: Sequence[float], names: Sequence[str]) -> tuple[float, ...]:
        """Weight of each class."""
        return _mean_of_one([(1 - self.beta) / (1 - self.beta ** _at_least_one(n)) for n in counts], counts)


@configclass
class PerClass:
    """A weight for each class by its name."""

    weights: Annotated[dict[str, Positive], MinLen(1)]
    """Name of a class: its weight, above 0. Classes that are not named weigh 1, before all are scaled to a mean of 1."""

    def __call__(self, counts: Sequence[float], names: Sequence[str]) -> tuple[float, ...]:
        """Weight of each class.

        Raises:
            InputError: a name that is no class of the data.
        """
        for name in self.weights:
            if name not in names:
                shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
                raise InputError(f"objective.class_weights.weights: expected names of classes ({shown}), got {name!r}")
        return _mean_of_one([self.weights.get(name, 1.0) for name in names], counts)


ClassWeights = Balanced | EffectiveNumber | PerClass


def log_shares(counts: Sequence[float]) -> tuple[float, ...]:
    """Logarithm of each class's share of the rows; a class without rows counts as having one."""
    total = sum(map(_at_least_one, counts))
    return tuple(math.log(_at_least_one(n) / total) for n in counts)


def _at_least_one(count: float) -> float:
    return max(1.0, float(count))


def _mean_of_one(weights: Sequence[float], counts: Sequence[float]) -> tuple[float, ...]:
    mean = sum(w * n for w, n in zip(weights, counts, strict=True)) / sum(counts)
    return tuple(w / mean for w in weights)
