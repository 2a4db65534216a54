"""What two texts share."""

from __future__ import annotations

from collections.abc import Sequence

from hf_finetune.features.extractors.base import OfText, Part, TableColumns
from hf_finetune.features.extractors.words import MAX_FEATURES
from hf_finetune.utils.config import Count, configclass


@configclass
class WordOverlap(OfText):
    """What the two texts of a pair share: which words, and how much, see `features.overlap`."""

    max_features: Count = MAX_FEATURES
    """Number of words, the most frequent ones."""

    expects = "pairs of texts"

    @property
    def name(self) -> str:
        """overlap."""
        return "overlap"

    def reads(self, columns: TableColumns) -> bool:
        """Return whether the rows are pairs of texts."""
        return len(columns.texts) == 2

    def parts(self, columns: TableColumns) -> Sequence[Part]:
        """Return a transformer of pairs."""
        from hf_finetune.features.overlap import OverlapTransformer

        return [Part(self.name, OverlapTransformer(self.max_features), list(columns.texts), True)]
