"""Class weights: the weight of a row's loss by its class.

Weights are scaled to a mean of 1 over the training rows, so the learning rate keeps its meaning and only the ratios of
the weights matter. Those of tags are not: they weigh the tags that a row has against those that it lacks, as
`pos_weight` of `torch.nn.BCEWithLogitsLoss`."""

import math
from collections.abc import Sequence
from typing import Annotated

from annotated_types import MinLen

from hf_finetune.errors import InputError
from hf_finetune.utils.config import Fraction, Positive, configclass

LARGEST = 100.0
"""Largest balanced weight of a tag: the loss of a tag of one row among thousands would hide all others."""


@configclass
class Balanced:
    """All classes have the same total weight: a row's weight is one over the number of rows of its class. A tag's
    weight is the number of rows without it over that of rows with it, 100 at most."""

    def __call__(self, counts: Sequence[float], names: Sequence[str]) -> tuple[float, ...]:
        """Return the weight of each class from its number of rows."""
        return _mean_of_one([1 / _at_least_one(n) for n in counts], counts)

    def of_tags(self, counts: Sequence[float], names: Sequence[str], rows: int) -> tuple[float, ...]:
        """Return the weight of each tag where a row has it: pos_weight of torch's BCEWithLogitsLoss, bounded.

        Args:
            counts: rows of each tag, among so many `rows`.
        """
        return tuple(min(LARGEST, max(1 / LARGEST, (rows - n) / _at_least_one(n))) for n in counts)


@configclass
class EffectiveNumber:
    """Class-balanced loss: one over the effective number of rows of a class, (1 - beta^n) / (1 - beta)
    (arXiv:1901.05555)."""

    beta: Fraction = 0.999
    """0: equal weights; near 1: one over the number of rows of the class."""

    def __call__(self, counts: Sequence[float], names: Sequence[str]) -> tuple[float, ...]:
        """Return the weight of each class from its number of rows."""
        return _mean_of_one([(1 - self.beta) / (1 - self.beta ** _at_least_one(n)) for n in counts], counts)

    def of_tags(self, counts: Sequence[float], names: Sequence[str], rows: int) -> tuple[float, ...]:
        """Refuse tags.

        Raises:
            InputError: always.
        """
        raise InputError(
            "objective.class_weights: expected Balanced or PerClass with multi-label, got EffectiveNumber, which is "
            "defined for rows of one class"
        )


@configclass
class PerClass:
    """A weight for each class or tag by its name."""

    weights: Annotated[dict[str, Positive], MinLen(1)]
    """Weight of each class by name, above 0. Other classes have weight 1, before all are scaled to a mean of 1. Tags:
    weight where an example has the tag, unscaled."""

    def __call__(self, counts: Sequence[float], names: Sequence[str]) -> tuple[float, ...]:
        """Return the weight of each class.

        Raises:
            InputError: `weights` names a class that the data lacks.
        """
        return _mean_of_one(self._by_name(names, "classes"), counts)

    def of_tags(self, counts: Sequence[float], names: Sequence[str], rows: int) -> tuple[float, ...]:
        """Return the weight of each tag where a row has it.

        Raises:
            InputError: `weights` names a tag that the data lacks.
        """
        return tuple(self._by_name(names, "tags"))

    def _by_name(self, names: Sequence[str], noun: str) -> list[float]:
        for name in self.weights:
            if name not in names:
                shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
                raise InputError(f"objective.class_weights.weights: expected names of {noun} ({shown}), got {name!r}")
        return [self.weights.get(name, 1.0) for name in names]


def log_shares(counts: Sequence[float]) -> tuple[float, ...]:
    """Return the logarithm of each class's share of the rows. A class without rows counts as one row."""
    total = sum(map(_at_least_one, counts))
    return tuple(math.log(_at_least_one(n) / total) for n in counts)


def _at_least_one(count: float) -> float:
    return max(1.0, float(count))


def _mean_of_one(weights: Sequence[float], counts: Sequence[float]) -> tuple[float, ...]:
    mean = sum(w * n for w, n in zip(weights, counts, strict=True)) / sum(counts)
    return tuple(w / mean for w in weights)
