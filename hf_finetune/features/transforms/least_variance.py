"""Features that hardly vary are left out."""

from __future__ import annotations

from typing import Any

from hf_finetune.features.transforms.base import FeatureTransform
from hf_finetune.utils.config import NonNegative, configclass


@configclass
class VarianceThreshold(FeatureTransform):
    """Leave out features that hardly vary over the training rows."""

    threshold: NonNegative = 0.0
    """Features of no more variance than this are left out. 0: those of a single value."""

    def step(self, shape: tuple[int, int], *, is_sparse: bool) -> Any:
        """Return the selector."""
        from sklearn import feature_selection

        return feature_selection.VarianceThreshold(self.threshold)
