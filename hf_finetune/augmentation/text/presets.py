"""Published recipes of text augmentation."""

from functools import cached_property

import numpy as np

from hf_finetune.augmentation.text.base import EachText, OnWords
from hf_finetune.augmentation.text.words import DeleteWords, InsertWords, ReplaceSynonyms, SwapWords
from hf_finetune.data.text_pieces import Keep, joined, share, space_beside
from hf_finetune.utils.config import Probability, configclass

MARKS = (".", ";", "?", ":", "!", ",")
"""The punctuation marks of AEDA."""


@configclass
class Eda(EachText):
    """Easy data augmentation (arXiv:1901.11196): synonyms, insertions, swaps or deletions, one of the four per text.

    For English; needs the extra `augment`. The paper makes 16 copies of each row of 500, 8 of 2,000, and 4 of more.
    """

    alpha: Probability = 0.1
    """Share of the words to change. The paper recommends 0.05 for up to a few thousand rows, and 0.1 for more."""
    keep: Keep = "nothing"
    """Words that are never replaced, swapped or deleted, see `data.text_pieces.Keep`."""

    @property
    def needs_synonyms(self) -> bool:
        return self.alpha > 0

    def change(self, text: str, rng: np.random.Generator) -> str:
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
    """An easier data augmentation (arXiv:2108.13230): insert punctuation marks before random words."""

    p: Probability = 0.3
    """Largest number of marks as a share of the words; the number is drawn from 1 to this. 0: off."""

    def change_words(self, words: list[str], gaps: list[str], rng: np.random.Generator) -> str:
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


TextPreset = Eda | Aeda
