"""The nearest mean of a class."""

from __future__ import annotations

from typing import Any

from hf_finetune.features.classifiers.base import ClassicalModel, TrainingTable
from hf_finetune.utils.config import configclass


@configclass
class NearestMean(ClassicalModel):
    """The class with the nearest mean of its training rows: a prototype for each class."""

    needs_dense = True

    def build(self, data: TrainingTable) -> Any:
        """Return a `NearestCentroid`."""
        from sklearn.neighbors import NearestCentroid

        return NearestCentroid(priors="uniform")
