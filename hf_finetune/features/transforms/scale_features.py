"""Scaling of features."""

from __future__ import annotations

from typing import Any, Literal

from hf_finetune.features.transforms.base import FeatureTransform
from hf_finetune.utils.config import configclass

ScaleBy = Literal["standard", "min-max", "robust"]


def scaler(by: ScaleBy, *, centers: bool = True) -> Any:
    """Return a scaler of scikit-learn.

    Args:
        centers: also move the features. Sparse ones would no longer be sparse.
    """
    from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

    if by == "standard":
        return StandardScaler(with_mean=centers)
    if by == "robust":
        return RobustScaler(with_centering=centers)
    return MinMaxScaler() if centers else MaxAbsScaler()


@configclass
class ScaleFeatures(FeatureTransform):
    """Scale every feature."""

    by: ScaleBy = "standard"
    """standard: mean 0 and deviation 1. min-max: 0 to 1. robust: by the median and the quartiles. Sparse features are
    divided only, and not moved."""

    def step(self, shape: tuple[int, int], *, is_sparse: bool) -> Any:
        """Return the scaler."""
        return scaler(self.by, centers=not is_sparse)
