"""Features of what two texts share: which words, and how much.

Legend: N rows, F words.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin

from hf_finetune.features.extractors.words import MAX_FEATURES, word_counter

NAMES = ("cosine", "jaccard", "share of the first", "share of the second", "length", "equal")
"""The dense features: cosine of TF-IDF; words of both over words of either, over those of the first, over those of the
second; the shorter over the longer number of words; whether all words are the same."""


class OverlapTransformer(TransformerMixin, BaseEstimator):
    """A transformer of scikit-learn from a table of two columns of texts to the features of `overlap`.

    Args:
        max_features: number of words, the most frequent ones of both columns.
    """

    def __init__(self, max_features: int = MAX_FEATURES) -> None:
        self.max_features = max_features

    def fit(self, pairs: Any, y: Any = None) -> Self:
        """Count the words of both columns."""
        first, second = _columns(pairs)
        self.words_ = word_counter(1, self.max_features).fit([*first, *second])
        return self

    def transform(self, pairs: Any) -> sparse.csr_matrix:
        """Return the features of pairs, shape (N, F + 6)."""
        return overlap(*map(self.words_.transform, _columns(pairs)))


def _columns(pairs: Any) -> list[list[str]]:
    return [pairs[name].tolist() for name in pairs.columns]


def overlap(first_NF: sparse.csr_matrix, second_NF: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the features of pairs, shape (N, F + 6): the words of both texts, and those of `NAMES`.

    Args:
        first_NF, second_NF: TF-IDF of single words of both texts, in one vocabulary, rows of norm 1.
    """
    shared_NF = first_NF.multiply(second_NF).tocsr()
    first, second, both = (np.diff(each.indptr).astype(np.float64) for each in (first_NF, second_NF, shared_NF))
    either = first + second - both
    dense = np.stack(
        [
            np.asarray(shared_NF.sum(axis=1)).ravel(),
            both / np.maximum(either, 1),
            both / np.maximum(first, 1),
            both / np.maximum(second, 1),
            np.minimum(first, second) / np.maximum(np.maximum(first, second), 1),
            both == either,
        ],
        axis=1,
    )
    # Of the size of TF-IDF.
    return sparse.hstack([shared_NF.sqrt(), sparse.csr_matrix(dense, dtype=np.float32)], format="csr")
