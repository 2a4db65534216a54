"""TF-IDF of runs of characters: k-mers of sequences, or parts of words."""

from __future__ import annotations

from collections.abc import Sequence

from hf_finetune.features.extractors.base import OfText, Part, TableColumns
from hf_finetune.features.extractors.words import MAX_FEATURES
from hf_finetune.utils.config import Count, configclass


@configclass
class CharacterTfidf(OfText):
    """TF-IDF of runs of characters, with the logarithm of counts: k-mers of sequences, or parts of words."""

    shortest: Count = 2
    """Shortest run of characters."""
    longest: Count = 5
    """Longest run of characters."""
    in_words: bool = True
    """Count runs within words only, in lower case. False: across words, in upper and lower case, as for sequences."""
    max_features: Count = MAX_FEATURES
    """Number of runs of a text column, the most frequent ones."""

    @property
    def name(self) -> str:
        """Such as 6-mers."""
        return f"characters-{self.shortest}-{self.longest}" if self.in_words else f"{self.longest}-mers"

    def parts(self, columns: TableColumns) -> Sequence[Part]:
        """Return a vectorizer of each text column."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        def counter() -> TfidfVectorizer:
            return TfidfVectorizer(
                analyzer="char_wb" if self.in_words else "char",
                ngram_range=(min(self.shortest, self.longest), self.longest),
                lowercase=self.in_words,
                sublinear_tf=True,
                max_features=self.max_features,
            )

        return [Part(self.name, counter(), column, True) for column in columns.filled]
