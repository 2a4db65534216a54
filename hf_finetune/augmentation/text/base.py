"""Base classes of text operations."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Self

import numpy as np

from hf_finetune.augmentation.operations import Graded, Rng, TextBatch, each
from hf_finetune.augmentation.text import synonyms
from hf_finetune.data.text_pieces import Keep, joined, stays, words_of
from hf_finetune.utils.config import Probability

STRONGEST_SHARE = 3
"""The strongest operation of a search changes this multiple of the default share, at most everything."""


class EachText(ABC):
    """An operation that changes every text on its own, and both texts of a pair."""

    def __call__(self, batch: TextBatch, rng: Rng) -> TextBatch:
        """Change every text of the batch. An empty second text stays empty.

        Raises:
            InputError: see `check_installed`.
        """
        self.check_installed()
        rngs = each(rng, len(batch))
        texts = [self.change(text, r) for text, r in zip(batch.texts, rngs, strict=True)]
        pairs = batch.pairs
        if pairs is not None:
            pairs = [self.change(text, r) if text.strip() else text for text, r in zip(pairs, rngs, strict=True)]
        return replace(batch, texts=texts, pairs=pairs)

    @property
    def needs_synonyms(self) -> bool:
        """Whether the operation looks up synonyms, for which it needs an optional package."""
        return False

    def check_installed(self) -> None:
        """Refuse to run without the package of synonyms if the operation needs it.

        Raises:
            InputError: with the command that installs it.
        """
        if self.needs_synonyms:
            synonyms.check_installed(type(self).__name__)

    @abstractmethod
    def change(self, text: str, rng: np.random.Generator) -> str:
        """Return the changed text."""


class ByShare(Graded):
    """A text operation whose strength is its share `p`."""

    p: Probability

    @classmethod
    def from_strength(cls, strength: float) -> Self:
        return cls(p=round(min(1.0, STRONGEST_SHARE * cls.p) * strength, 4))  # type: ignore[call-arg]


class OnWords(ByShare, EachText):
    """An operation on the list of words of a text.

    Words are separated by white space; in scripts without spaces every letter counts as a word. White space stays in
    place. A text of fewer than two words is not changed.
    """

    def change(self, text: str, rng: np.random.Generator) -> str:
        words, gaps = words_of(text)
        return text if len(words) < 2 or self.p == 0 else self.change_words(words, gaps, rng)

    @abstractmethod
    def change_words(self, words: list[str], gaps: list[str], rng: np.random.Generator) -> str:
        """Return the text of the changed words, see `data.text_pieces.words_of`. Both lists may be modified."""


class PerWord(ByShare, EachText):
    """An operation that changes each word on its own with probability `p`."""

    keep: Keep

    def change(self, text: str, rng: np.random.Generator) -> str:
        words, gaps = words_of(text)
        if not words or self.p == 0:
            return text
        drawn = rng.random((len(words), 3))
        changed = list(words)
        for i in np.flatnonzero(drawn[:, 0] < self.p).tolist():
            if not stays(words, i, self.keep):
                changed[i] = self.change_word(words[i], float(drawn[i, 1]), float(drawn[i, 2]))
        return joined(changed, gaps)

    @abstractmethod
    def change_word(self, word: str, u: float, v: float) -> str:
        """Return the changed word, determined by two random numbers from [0, 1)."""
