"""Hashed counts of words and runs of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Interval

from hf_finetune.features.extractors.base import OfText, Part, TableColumns
from hf_finetune.features.extractors.words import WORDS
from hf_finetune.utils.config import Count, configclass


@configclass
class HashedNgrams(OfText):
    """Hashed counts of words and runs of words (arXiv:0902.2206): no vocabulary is stored with the model."""

    longest: Count = 2
    """Longest run of words."""
    num_features: Annotated[int, Interval(ge=2, le=2**24)] = 2**18
    """Number of features of a text column."""

    @property
    def name(self) -> str:
        """hashed."""
        return "hashed"

    def parts(self, columns: TableColumns) -> Sequence[Part]:
        """Return a vectorizer of each text column."""
        from sklearn.feature_extraction.text import HashingVectorizer

        def counter() -> HashingVectorizer:
            return HashingVectorizer(
                token_pattern=WORDS, ngram_range=(1, self.longest), n_features=self.num_features, alternate_sign=False
            )

        return [Part(self.name, counter(), column, True) for column in columns.filled]
