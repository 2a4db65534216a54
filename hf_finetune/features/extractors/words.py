"""TF-IDF of words and word pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_finetune.data.text_pieces import UNSPACED
from hf_finetune.features.extractors.base import OfText, Part, TableColumns
from hf_finetune.utils.config import Count, configclass

# Punctuation marks count as words: "!" and "?" are features of classes.
WORDS = rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]"
MAX_FEATURES = 50_000


def word_counter(longest: int, most: int) -> Any:
    """Return a `TfidfVectorizer` of words and punctuation marks."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        token_pattern=WORDS, ngram_range=(1, longest), sublinear_tf=True, max_features=most, dtype=np.float32
    )


@configclass
class WordTfidf(OfText):
    """TF-IDF of words and runs of words, with the logarithm of counts. The texts of a pair are counted apart."""

    longest: Count = 2
    """Longest run of words."""
    max_features: Count = MAX_FEATURES
    """Number of runs of a text column, the most frequent ones."""

    @property
    def name(self) -> str:
        """tfidf."""
        return "tfidf"

    def parts(self, columns: TableColumns) -> Sequence[Part]:
        """Return a vectorizer of each text column."""
        return [Part(self.name, word_counter(self.longest, self.max_features), c, True) for c in columns.filled]
