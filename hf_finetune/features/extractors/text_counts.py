"""Rule-based counts of a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_finetune.features.extractors.base import Computed, OfText, TableColumns
from hf_finetune.features.extractors.words import WORDS
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

COUNTS = (
    *("characters", "words", "lines", "mean_word", "distinct_words"),
    *("upper", "digits", "punctuation", "exclamations", "questions", "links"),
)
LINK = re.compile(r"https?://|www\.", re.IGNORECASE)
MARK = re.compile(r"[^\w\s]")


@configclass
class TextCounts(OfText, Computed):
    """Lengths and shares of a text: characters, words, lines, letters of a word, share of distinct words, of upper
    case, of digits and of punctuation, exclamation and question marks, links. Counts are log(1 + count)."""

    @property
    def name(self) -> str:
        """counts."""
        return "counts"

    def compute(self, rows: Dataset, columns: TableColumns, cache_gb: float = 0.0) -> tuple[Sequence[str], np.ndarray]:
        """Return the counts of each text column."""
        import numpy as np

        canonical = ("text", "text_pair")[: len(columns.texts)]
        counts = [np.array([counts_of(text or "") for text in rows[c][:]], np.float32) for c in canonical]
        names = [f"{column}:{count}" for column in columns.texts for count in COUNTS]
        return names, np.concatenate(counts, axis=1) if counts else np.empty((len(rows), 0), np.float32)


def counts_of(text: str) -> list[float]:
    """Return the values of `COUNTS`."""
    from math import log1p

    words, characters = re.findall(WORDS, text.lower()), max(len(text), 1)
    letters = [len(word) for word in words if word[0].isalnum()]
    return [
        log1p(len(text)),
        log1p(len(words)),
        log1p(text.count("\n")),
        sum(letters) / max(len(letters), 1),
        len(set(words)) / max(len(words), 1),
        sum(map(str.isupper, text)) / characters,
        sum(map(str.isdigit, text)) / characters,
        len(MARK.findall(text)) / characters,
        log1p(text.count("!")),
        log1p(text.count("?")),
        log1p(len(LINK.findall(text))),
    ]
