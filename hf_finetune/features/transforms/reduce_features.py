"""Fewer features that explain most of the variance."""

from __future__ import annotations

from typing import Any

from hf_finetune.features.extractors.base import SEED
from hf_finetune.features.transforms.base import FeatureTransform
from hf_finetune.utils.config import Count, configclass


@configclass
class ReduceFeatures(FeatureTransform):
    """The components of most variance in place of the features: PCA, and the truncated SVD of sparse features (LSA)."""

    components: Count = 100
    """Number of components, at most that of the features and of the training rows."""

    makes_dense = True

    def step(self, shape: tuple[int, int], *, is_sparse: bool) -> Any:
        """Return the decomposition."""
        from sklearn.decomposition import PCA, TruncatedSVD

        kind = TruncatedSVD if is_sparse else PCA
        return kind(n_components=min(self.components, *shape), random_state=SEED)
