"""Gradient-boosted trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from annotated_types import Interval

from hf_finetune.features.classifiers.base import ClassicalModel, TrainingTable
from hf_finetune.features.extractors.base import SEED
from hf_finetune.utils.config import Count, Positive, configclass

RATES = (0.1, 0.03)


@configclass
class BoostedTrees(ClassicalModel):
    """Gradient-boosted trees on binned features (scikit-learn's `HistGradientBoosting`)."""

    rounds: Count = 100
    """Largest number of trees for each class."""
    learning_rate: Positive | None = None
    """Share of the error that a tree corrects. None: the better of 0.1 and 0.03 in cross-validation."""
    leaves: Annotated[int, Interval(ge=2, le=1024)] = 31
    """Largest number of leaves of a tree."""
    rows_per_leaf: Count = 20
    """Least number of training rows in a leaf."""

    needs_dense = True

    def build(self, data: TrainingTable) -> Any:
        """Return a `HistGradientBoostingClassifier`."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        return HistGradientBoostingClassifier(**self._options())

    def regressor(self, data: TrainingTable) -> Any:
        """Return a `HistGradientBoostingRegressor`."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        return HistGradientBoostingRegressor(**self._options())

    def grid(self) -> Mapping[str, Sequence[Any]]:
        """Return the learning rates."""
        return {"learning_rate": RATES} if self.learning_rate is None else {}

    def _options(self) -> dict[str, Any]:
        return {
            "max_iter": self.rounds,
            "learning_rate": self.learning_rate or RATES[0],
            "max_leaf_nodes": self.leaves,
            "min_samples_leaf": self.rows_per_leaf,
            "early_stopping": False,
            "random_state": SEED,
        }
