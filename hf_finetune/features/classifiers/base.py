"""What every classical classifier has.

Legend: N rows, F features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from hf_finetune.errors import InputError

Form = Literal["sparse", "mixed", "dense"]
"""Of features. mixed: sparse ones of small size beside a few of the size 1, together as a sparse matrix."""


@dataclass(frozen=True)
class TrainingTable:
    """What a classifier is fitted to."""

    form: Form
    """Of its features."""
    rows: int
    fewest: int
    """Rows of the smallest class, see `pipelines.fewest_rows`."""

    @property
    def is_sparse(self) -> bool:
        """Whether its features are a sparse matrix."""
        return self.form != "dense"


class ClassicalModel(ABC):
    """A classifier or regressor of scikit-learn, as a config. A field that is None is chosen by cross-validation."""

    needs_dense: ClassVar[bool] = False
    """Whether it cannot read sparse features, of which it gets the components of most variance."""
    least_rows: ClassVar[int] = 1
    """Rows of each class that it needs."""
    shows_rules: ClassVar[bool] = False
    """Whether its rules can be read."""

    @abstractmethod
    def build(self, data: TrainingTable) -> Any:
        """Return the classifier of scikit-learn, with `predict_proba`.

        Raises:
            InputError: it cannot be fitted to these rows.
        """

    def regressor(self, data: TrainingTable) -> Any:
        """Return the regressor of scikit-learn.

        Raises:
            InputError: it is for classes only.
        """
        name = type(self).__name__
        raise InputError(
            f"classical.classifier: {name} classifies; expected LinearModel, DecisionTree, RandomForest, BoostedTrees "
            "or NearestNeighbors with numbers as labels"
        )

    def grid(self) -> Mapping[str, Sequence[Any]]:
        """Return the values to choose among, the default first, by the field that is None."""
        return {}
