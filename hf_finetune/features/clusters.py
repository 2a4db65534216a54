"""Clusters of rows, by k-means on standardized features, and what is in them.

Legend: N rows, D features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hf_finetune.features.extractors.base import SEED
from hf_finetune.utils.messages import cut_end, listed

MOST_NAMES, EXAMPLE = 3, 60
"""Labels of a cluster that are named; characters of its example."""


@dataclass(frozen=True)
class Cluster:
    """A cluster."""

    cluster: int
    rows: int
    labels: dict[str, int]
    """Rows of its most frequent labels. Empty without labels."""
    example: str
    """The text that is nearest to its center, or the number of the row."""

    def describe(self) -> str:
        """Return one line."""
        names = listed([f"{name} {count / self.rows:.0%}" for name, count in self.labels.items()])
        return f"{self.cluster:>7}  {self.rows:>6,}  {names + '  ' if names else ''}{cut_end(self.example, EXAMPLE)}"


class Clusters:
    """Clusters that are fitted to features (N, D)."""

    def __init__(self, features_ND: np.ndarray, count: int) -> None:
        from sklearn.cluster import KMeans
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        clusters = min(count, len(np.unique(features_ND, axis=0)))
        self._model = make_pipeline(StandardScaler(), KMeans(clusters, n_init=4, random_state=SEED)).fit(features_ND)

    def of(self, features_ND: np.ndarray) -> np.ndarray:
        """Return the cluster of each row, shape (N,)."""
        return self._model.predict(features_ND)

    def report(
        self, features_ND: np.ndarray, texts: Sequence[str] | None, labels: Sequence[Any] | None
    ) -> list[Cluster]:
        """Return what is in each cluster of these rows, the largest first."""
        distances = self._model.transform(features_ND)
        cluster_N, clusters = distances.argmin(axis=1), []
        for number in range(distances.shape[1]):
            rows = np.flatnonzero(cluster_N == number)
            if not len(rows):
                continue
            nearest = int(rows[distances[rows, number].argmin()])
            counts = Counter(str(labels[int(row)]) for row in rows) if labels is not None else Counter[str]()
            example = f"row {nearest}" if texts is None else " ".join(texts[nearest].split())
            clusters.append(Cluster(number, len(rows), dict(counts.most_common(MOST_NAMES)), example))
        return sorted(clusters, key=lambda each: -each.rows)


def to_dicts(clusters: Sequence[Cluster]) -> list[dict[str, Any]]:
    """Return clusters as JSON has them."""
    return [asdict(each) for each in clusters]
