"""Clusters as features."""

from __future__ import annotations

from typing import Any

from hf_finetune.features.extractors.base import SEED
from hf_finetune.features.transforms.base import FeatureTransform
from hf_finetune.utils.config import Count, configclass


@configclass
class ClusterDistances(FeatureTransform):
    """Add the distance to the center of each of k clusters (k-means) to the features."""

    clusters: Count = 10
    """Number of clusters, at most that of the training rows."""

    def step(self, shape: tuple[int, int], *, is_sparse: bool) -> Any:
        """Return the features beside the distances."""
        from sklearn.cluster import KMeans
        from sklearn.pipeline import FeatureUnion

        clusters = KMeans(min(self.clusters, shape[0]), n_init=4, random_state=SEED)
        return FeatureUnion([("features", "passthrough"), ("clusters", clusters)])
