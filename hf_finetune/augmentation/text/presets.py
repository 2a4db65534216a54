"""Published recipes of text augmentation as operations of their own."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from hf_finetune.augmentation.text import synonyms
from hf_finetune.augmentation.text.base import EachText, OnWords
from hf_finetune.augmentation.text.words import DeleteWords, InsertWords, ReplaceSynonyms, SwapWords
from hf_finetune.data.text_pieces import Keep, joined, share, space_beside
from hf_finetune.utils.config import Probability, configclass

MARKS = (".", ";", "?", ":", "!", ",")
"""AEDA's."""


@configclass
class Eda(EachText):
    """Easy data augmentation (arXiv:1901.11196): in every text synonyms, an insertion, swaps or deletions, one of the
    four.

    For English; the extra `augment`. The paper makes 16 copies of each of 500 rows, 8 of each of 2,000, 4 of more.
    """

    alpha: Probability = 0.1
    """Share of the words that change. The paper advises 0.05 for a few hundred or thousand rows, and 0.1 for more."""
    keep: Keep = "nothing"
    """Words that are neither exchanged nor swapped nor left out, see `data.text_pieces.Keep`."""

    def check_installed(self) -> None:
        """Refuse to run without synonyms.

        Raises:
            InputError: their package is not installed.
        """
        if self.alpha > 0:
            synonyms.check_installed("Eda")

    def change(self, text: str, rng: np.random.Generator) -> str:
        """A text of one word at least; one of fewer than two stays itself."""
        return self._operations[int(rng.random() * 4)].change(text, rng)

    @cached_property
    def _operations(self) -> tuple[EachText, ...]:
        return (
            ReplaceSynonyms(self.alpha, self.keep),
            InsertWords(self.alpha),
            SwapWords(self.alpha, self.keep),
            DeleteWords(self.alpha, self.keep),
        )


@configclass
class Aeda(OnWords):
    """An easier data augmentation (arXiv:2108.13230): punctuation marks between the words, which all stay as they
    are."""

    p: Probability = 0.3
    """As many marks as are drawn from 1 to this share of the words; none where it is 0."""

    def change_words(self, words: list[str], gaps: list[str], rng: np.random.Generator) -> str:
        """A text with marks before some of the words."""
        count = 1 + int(rng.random() * share(self.p, len(words)))
        marked = set(rng.permutation(len(words))[:count].tolist())
        new, around = [], []
        for i, word in enumerate(words):
            around.append(gaps[i])
            if i in marked:
                new.append(MARKS[int(rng.random() * len(MARKS))])
                around.append(space_beside(word))
            new.append(word)
        return joined(new, [*around, gaps[-1]])
