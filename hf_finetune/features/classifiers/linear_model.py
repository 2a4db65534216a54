"""Logistic regression, and ridge regression of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_finetune.features.classifiers.base import ClassicalModel, TrainingTable
from hf_finetune.features.extractors.base import SEED
from hf_finetune.utils.config import Positive, configclass

STRENGTHS = (10.0, 1.0, 100.0, 0.1)
"""Values of C, the default first."""


@configclass
class LinearModel(ClassicalModel):
    """Multinomial logistic regression; of numbers, ridge regression."""

    inverse_strength: Positive | None = None
    """Inverse of the L2 penalty, scikit-learn's C. None: the best of 0.1, 1, 10 and 100 in cross-validation."""
    balanced: bool = False
    """Weigh each class by the inverse of its training rows."""

    def build(self, data: TrainingTable) -> Any:
        """Return a `LogisticRegression`, with the solver that is fastest for the features."""
        from sklearn.linear_model import LogisticRegression

        options: dict[str, Any] = {"C": self.inverse_strength or STRENGTHS[0], "max_iter": 100}
        options |= {"class_weight": "balanced" if self.balanced else None}
        if data.form == "sparse":
            # On sparse features SAGA (arXiv:1407.0202) takes a quarter of the time of L-BFGS and is as good here.
            return LogisticRegression(**options, solver="saga", tol=1e-2, random_state=SEED)
        # On few dense features the quasi-Newton solver is five times faster than SAGA, which does not converge at all
        # where features differ in size.
        return LogisticRegression(**options | {"max_iter": 100 if data.form == "dense" else 1000}, tol=1e-3)

    def regressor(self, data: TrainingTable) -> Any:
        """Return a `Ridge`."""
        from sklearn.linear_model import Ridge

        return Ridge(
            alpha=1 / (self.inverse_strength or STRENGTHS[0]),
            solver="sag" if data.form == "sparse" else "auto",
            random_state=SEED,
        )

    def grid(self) -> Mapping[str, Sequence[Any]]:
        """Return the penalties."""
        return {"inverse_strength": STRENGTHS} if self.inverse_strength is None else {}
