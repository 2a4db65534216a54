"""A decision tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_finetune.features.classifiers.base import ClassicalModel, TrainingTable
from hf_finetune.features.extractors.base import SEED
from hf_finetune.utils.config import Count, configclass

DEPTHS = (8, 4, 16)


@configclass
class DecisionTree(ClassicalModel):
    """A decision tree, whose rules the card shows."""

    depth: Count | None = None
    """Largest depth. None: the best of 4, 8 and 16 in cross-validation."""
    rows_per_leaf: Count = 5
    """Least number of training rows in a leaf."""

    shows_rules = True

    def build(self, data: TrainingTable) -> Any:
        """Return a `DecisionTreeClassifier`."""
        from sklearn.tree import DecisionTreeClassifier

        return DecisionTreeClassifier(**self._options())

    def regressor(self, data: TrainingTable) -> Any:
        """Return a `DecisionTreeRegressor`."""
        from sklearn.tree import DecisionTreeRegressor

        return DecisionTreeRegressor(**self._options())

    def grid(self) -> Mapping[str, Sequence[Any]]:
        """Return the depths."""
        return {"depth": DEPTHS} if self.depth is None else {}

    def _options(self) -> dict[str, Any]:
        return {"max_depth": self.depth or DEPTHS[0], "min_samples_leaf": self.rows_per_leaf, "random_state": SEED}
