"""Class weights: the weight of a row's loss by its class.

Weights are scaled to a mean of 1 over the training rows, so the learning rate keeps its meaning and only the ratios of
the weights matter."""

import math
from collections.abc import Sequence
from typing import Annotated

from annotated_types import MinLen

from hf_finetune.errors import InputError
from hf_finetune.utils.config import Fraction, Positive, configclass


@configclass
class Balanced:
    """All classes have the same total weight: a row's weight is one over the number of rows of its class."""

    def __call__(self, counts: Sequence[float], names: Sequence[str]) -> tuple[float, ...]:
        """Return the weight of each class from its number of rows."""
        return _mean_of_one([1 / _at_least_one(n) for n in counts], counts)


@configclass
class EffectiveNumber:
    """Class-balanced loss: one over the effective number of rows of a class, (1 - beta^n) / (1 - beta)
    (arXiv:1901.05555)."""

    beta: Fraction = 0.999
    """0: equal weights; near 1: one over the number of rows of the class."""

    def __call__(self, counts: Sequence[float], names: Sequence[str]) -> tuple[float, ...]:
        """Return the weight of each class from its number of rows."""
        return _mean_of_one([(1 - self.beta) / (1 - self.beta ** _at_least_one(n)) for n in counts], counts)


@configclass
class PerClass:
    """A weight for each class by its name."""

    weights: Annotated[dict[str, Positive], MinLen(1)]
    """Weight of each class by name, above 0. Other classes have weight 1, before all are scaled to a mean of 1."""

    def __call__(self, counts: Sequence[float], names: Sequence[str]) -> tuple[float, ...]:
        """Return the weight of each class.

        Raises:
            InputError: `weights` names a class that the data lacks.
        """
        for name in self.weights:
            if name not in names:
                shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
                raise InputError(f"objective.class_weights.weights: expected names of classes ({shown}), got {name!r}")
        return _mean_of_one([self.weights.get(name, 1.0) for name in names], counts)


def log_shares(counts: Sequence[float]) -> tuple[float, ...]:
    """Return the logarithm of each class's share of the rows. A class without rows counts as one row."""
    total = sum(map(_at_least_one, counts))
    return tuple(math.log(_at_least_one(n) / total) for n in counts)


def _at_least_one(count: float) -> float:
    return max(1.0, float(count))


def _mean_of_one(weights: Sequence[float], counts: Sequence[float]) -> tuple[float, ...]:
    mean = sum(w * n for w, n in zip(weights, counts, strict=True)) / sum(counts)
    return tuple(w / mean for w in weights)
