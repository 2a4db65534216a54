"""A random forest."""

from __future__ import annotations

from typing import Any

from hf_finetune.features.classifiers.base import ClassicalModel, TrainingTable
from hf_finetune.features.extractors.base import SEED
from hf_finetune.utils.config import Count, configclass


@configclass
class RandomForest(ClassicalModel):
    """The mean of decision trees, each on resampled rows and random features (Breiman, 2001, "Random forests")."""

    trees: Count = 100
    """Number of trees."""
    rows_per_leaf: Count = 2
    """Least number of training rows in a leaf."""

    needs_dense = True

    def build(self, data: TrainingTable) -> Any:
        """Return a `RandomForestClassifier`."""
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(self.trees, min_samples_leaf=self.rows_per_leaf, random_state=SEED)

    def regressor(self, data: TrainingTable) -> Any:
        """Return a `RandomForestRegressor`."""
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(self.trees, min_samples_leaf=self.rows_per_leaf, random_state=SEED)
