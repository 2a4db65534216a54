"""A linear support vector machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_finetune.errors import InputError
from hf_finetune.features.classifiers.base import ClassicalModel, TrainingTable
from hf_finetune.features.extractors.base import SEED
from hf_finetune.utils.config import Positive, configclass

STRENGTHS = (1.0, 0.1, 10.0)


@configclass
class LinearSVM(ClassicalModel):
    """A linear support vector machine for each class. A sigmoid that is fitted in cross-validation makes probabilities
    of its margins (Platt scaling)."""

    inverse_strength: Positive | None = None
    """Inverse of the L2 penalty, scikit-learn's C. None: the best of 0.1, 1 and 10 in cross-validation."""
    balanced: bool = False
    """Weigh each class by the inverse of its training rows."""

    least_rows = 2

    def build(self, data: TrainingTable) -> Any:
        """Return a `CalibratedClassifierCV` of a `LinearSVC`.

        Raises:
            InputError: a class has a single row.
        """
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.svm import LinearSVC

        if data.fewest < self.least_rows:
            raise InputError(
                "classical.classifier: LinearSVM needs 2 training rows of each class for its probabilities, and a "
                "class has one; label more of it, or use LinearModel"
            )
        weight = "balanced" if self.balanced else None
        machine = LinearSVC(C=self.inverse_strength or STRENGTHS[0], class_weight=weight, random_state=SEED)
        return CalibratedClassifierCV(machine, ensemble=False, cv=min(3, data.fewest))

    def grid(self) -> Mapping[str, Sequence[Any]]:
        """Return the penalties."""
        return {"inverse_strength": STRENGTHS} if self.inverse_strength is None else {}
