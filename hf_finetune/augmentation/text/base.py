"""The bases of operations on texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Self

import numpy as np

from hf_finetune.augmentation.operations import Graded, Rng, TextBatch, each
from hf_finetune.data.text_pieces import Keep, joined, stays, words_of
from hf_finetune.utils.config import Probability

STRONGEST_SHARE = 3
"""The strongest operation of a search changes so many times the share that it changes by default, at most all."""


class EachText(ABC):
    """An operation that changes every text by itself, and both texts of a pair."""

    def __call__(self, batch: TextBatch, rng: Rng) -> TextBatch:
        """The batch with each text sent through `change`; an empty second text stays.

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

    def check_installed(self) -> None:  # noqa: B027 most operations need none
        """Refuse to run without a package that the operation needs.

        Raises:
            InputError: naming it, and how it is installed.
        """

    @abstractmethod
    def change(self, text: str, rng: np.random.Generator) -> str:
        """Change a text."""


class ByShare(Graded):
    """An operation on texts whose strength is its share `p`."""

    p: Probability

    @classmethod
    def of_strength(cls, strength: float) -> Self:
        """See `Graded`."""
        return cls(p=round(min(1.0, STRONGEST_SHARE * cls.p) * strength, 4))  # type: ignore[call-arg]


class OnWords(ByShare, EachText):
    """An operation on the words of a text: what stands between white space, and each letter of a script that puts none
    between words. The white space stays where it was. A text of fewer than two words stays itself."""

    def change(self, text: str, rng: np.random.Generator) -> str:
        """See `EachText`."""
        words, gaps = words_of(text)
        return text if len(words) < 2 or self.p == 0 else self.change_words(words, gaps, rng)

    @abstractmethod
    def change_words(self, words: list[str], gaps: list[str], rng: np.random.Generator) -> str:
        """The text of these words, changed; see `data.text_pieces.words_of`. Both lists may be changed."""


class SomeWords(ByShare, EachText):
    """An operation that writes each word otherwise with probability `p`."""

    keep: Keep

    def change(self, text: str, rng: np.random.Generator) -> str:
        """See `EachText`."""
        words, gaps = words_of(text)
        if not words or self.p == 0:
            return text
        drawn = rng.random((len(words), 3))
        changed = list(words)
        for i in np.flatnonzero(drawn[:, 0] < self.p).tolist():
            if not stays(words, i, self.keep):
                changed[i] = self.write(words[i], float(drawn[i, 1]), float(drawn[i, 2]))
        return joined(changed, gaps)

    @abstractmethod
    def write(self, word: str, first: float, second: float) -> str:
        """A word, written otherwise by two random numbers from 0 to 1."""
