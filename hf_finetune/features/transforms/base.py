"""What every transform of features has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar


class FeatureTransform(ABC):
    """A change of all features, fitted to the training rows."""

    makes_dense: ClassVar[bool] = False
    """Whether its features are few, and dense."""

    @abstractmethod
    def step(self, shape: tuple[int, int], *, is_sparse: bool) -> Any:
        """Return the transformer of scikit-learn.

        Args:
            shape: rows and features that it reads.
            is_sparse: whether the features that it reads are.
        """
