"""The nearest training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hf_finetune.features.classifiers.base import ClassicalModel, TrainingTable
from hf_finetune.utils.config import Count, configclass

NEIGHBORS = (5, 1, 15)


@configclass
class NearestNeighbors(ClassicalModel):
    """The classes of the nearest training rows, the nearer the more. The model holds the features of the training rows,
    which are pushed with it."""

    neighbors: Count | None = None
    """Number of rows. None: the best of 1, 5 and 15 in cross-validation."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """How far two rows are apart."""

    def build(self, data: TrainingTable) -> Any:
        """Return a `KNeighborsClassifier`."""
        from sklearn.neighbors import KNeighborsClassifier

        return KNeighborsClassifier(**self._options(data))

    def regressor(self, data: TrainingTable) -> Any:
        """Return a `KNeighborsRegressor`."""
        from sklearn.neighbors import KNeighborsRegressor

        return KNeighborsRegressor(**self._options(data))

    def grid(self) -> Mapping[str, Sequence[Any]]:
        """Return the numbers of rows."""
        return {"neighbors": NEIGHBORS} if self.neighbors is None else {}

    def _options(self, data: TrainingTable) -> dict[str, Any]:
        # Search trees are of no use in many dimensions.
        options = {"metric": self.distance, "algorithm": "brute", "weights": "distance"}
        return {"n_neighbors": min(self.neighbors or NEIGHBORS[0], data.rows), **options}
