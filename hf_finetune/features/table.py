"""Rows as the table that a pipeline of scikit-learn reads: the columns of the source, and features of each row.

Legend: N rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from hf_finetune.data.config import FEATURE
from hf_finetune.features.cells import are_numbers, numbers_of
from hf_finetune.features.config import (
    CharacterTfidf,
    EncoderFeatures,
    FeatureExtractor,
    NominalColumns,
    NumberColumns,
    Pixels,
    WordOverlap,
    WordTfidf,
)
from hf_finetune.features.extractors.base import Computed, TableColumns
from hf_finetune.utils.sequences import are_sequences

LONG_TEXT = 50_000
"""Characters of a text that are read."""
OCCURRENCES, LONGEST_KMER = 10, 8
"""Least number of times that a k-mer occurs on average; largest k."""
LETTERS_FROM = 1_000
"""Number of sequences whose letters make the alphabet."""
TEXTS = ("text", "text_pair")


@dataclass(frozen=True)
class RowTable:
    """How canonical rows become a table."""

    columns: TableColumns
    """The columns of the table."""
    canonical: Mapping[str, str]
    """The canonical column of each column of the source."""
    extractors: tuple[FeatureExtractor, ...]

    @classmethod
    def of(
        cls, train: Dataset, extractors: Sequence[FeatureExtractor] = (), names: Mapping[str, str] | None = None
    ) -> RowTable:
        """Return the table of training rows.

        Args:
            train: canonical rows.
            extractors: (): the default ones for these rows.
            names: the source's columns by canonical name; None: the canonical names.

        Raises:
            InputError: an extractor has nothing to read, or names a column that is not there.
        """
        shown = dict(names or {})
        features = [name for name in train.column_names if name.startswith(FEATURE)]
        shown |= {name: name.removeprefix(FEATURE) for name in features}
        texts = {shown.get(name, name): name for name in TEXTS if name in train.column_names}
        nominal = {name for each in extractors if isinstance(each, NominalColumns) for name in each.columns}
        numeric = [shown[n] for n in features if shown[n] not in nominal and are_numbers(train[n][:])]
        columns = TableColumns(
            texts=tuple(texts),
            empty=tuple(name for name, canonical in texts.items() if not any(map(_has_words, train[canonical][:]))),
            numbers=tuple(numeric),
            names=tuple(shown[name] for name in features if shown[name] not in numeric),
            has_images="image" in train.column_names,
        )
        canonical = {**texts, **{shown[name]: name for name in features}}
        table = cls(columns, canonical, tuple(extractors) or default_extractors(train, columns))
        for extractor in table.extractors:
            extractor.check(columns)
        return table

    def __call__(self, rows: Dataset, *, cache_gb: float = 0.0) -> Any:
        """Return the table of rows, a DataFrame of N rows.

        Args:
            cache_gb: see `Computed.compute`.

        Raises:
            InputError: a column of numbers has another cell.
        """
        import pandas as pd

        read: dict[str, Any] = {}
        for name, canonical in self.canonical.items():
            cells = rows[canonical][:]
            if canonical in TEXTS:
                read[name] = [(text or "")[:LONG_TEXT] for text in cells]
            elif name in self.columns.numbers:
                read[name] = numbers_of(cells, name, rows["row"][:] if "row" in rows.column_names else None)
            else:
                read[name] = [cell or "" for cell in cells]
        pieces = [pd.DataFrame(read)] if read else []
        for extractor, (names, features_ND) in self._computed(rows, cache_gb):
            pieces.append(pd.DataFrame(features_ND, columns=[extractor.prefix + name for name in names]))
        return pieces[0] if len(pieces) == 1 else pd.concat(pieces, axis=1)

    def _computed(self, rows: Dataset, cache_gb: float) -> Iterator[tuple[Computed, tuple[Sequence[str], np.ndarray]]]:
        """Yield the features of each row by itself; those of one encoder from one forward pass."""
        encoders = [each for each in self.extractors if isinstance(each, EncoderFeatures)]
        states = EncoderFeatures.compute_all(encoders, rows, self.columns, cache_gb)
        for extractor in self.extractors:
            if isinstance(extractor, EncoderFeatures):
                yield extractor, states[extractor]
            elif isinstance(extractor, Computed):
                yield extractor, extractor.compute(rows, self.columns, cache_gb)


def _has_words(text: str | None) -> bool:
    return bool(text and text.strip())


def default_extractors(train: Dataset, columns: TableColumns) -> tuple[FeatureExtractor, ...]:
    """Return what is read of rows if nothing is named: words, k-mers of sequences or pixels, and further columns."""
    beside: tuple[FeatureExtractor, ...] = (
        *((NumberColumns(),) if columns.numbers else ()),
        *((NominalColumns(),) if columns.names else ()),
    )
    if columns.has_images:
        return (Pixels(), *beside)
    texts = [[text or "" for text in train[name][:]] for name in TEXTS if name in train.column_names]
    if are_sequences([text[:LONG_TEXT] for text in texts[0]]):
        characters = np.sum([[min(len(text), LONG_TEXT) for text in each] for each in texts], axis=0)
        k = longest_kmer(characters, set("".join(texts[0][:LETTERS_FROM])))
        return (CharacterTfidf(shortest=1, longest=k, in_words=False), *beside)
    overlap: tuple[FeatureExtractor, ...] = (WordOverlap(),) if len(texts) == 2 else ()
    return (WordTfidf(), *overlap, *beside)


def longest_kmer(lengths_N: np.ndarray, letters: Collection[str]) -> int:
    """Return the k up to which k-mers are counted: all of them occur `OCCURRENCES` times in random rows of the lengths.

    Args:
        lengths_N: letters of each row.
        letters: the alphabet.
    """
    k = 1
    while k < LONGEST_KMER and len(letters) ** (k + 1) * OCCURRENCES <= lengths_N.sum():
        k += 1
    return k
