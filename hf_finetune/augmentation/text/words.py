"""Operations that swap, leave out, insert and exchange the words of a text."""

from __future__ import annotations

from typing import Literal

import numpy as np

from hf_finetune.augmentation.text import synonyms
from hf_finetune.augmentation.text.base import OnWords
from hf_finetune.data.text_pieces import Keep, core_of, joined_words, share, space_beside, stays, without
from hf_finetune.utils.config import Probability, configclass


@configclass
class SwapWords(OnWords):
    """Exchange two words, as often as there are words times p (EDA's random swap, arXiv:1901.11196)."""

    p: Probability = 0.1
    """Share of the words; at least one pair where it is above 0."""
    keep: Keep = "nothing"
    """Words that keep their places, see `data.text_pieces.Keep`."""

    def change_words(self, words: list[str], gaps: list[str], rng: np.random.Generator) -> str:
        """A text of the same words."""
        places = [i for i in range(len(words)) if not stays(words, i, self.keep)]
        if len(places) < 2:
            return joined_words(words, gaps)
        for first, second in rng.random((share(self.p, len(words)), 2)).tolist():
            a, b = int(first * len(places)), int(second * (len(places) - 1))
            # Never with itself.
            i, j = places[a], places[b + (b >= a)]
            words[i], words[j] = words[j], words[i]
        return joined_words(words, gaps)


@configclass
class DeleteWords(OnWords):
    """Leave out words, each with probability p (EDA's random deletion, arXiv:1901.11196)."""

    p: Probability = 0.1
    """Probability of each word."""
    keep: Keep = "nothing"
    """Words that are not left out, see `data.text_pieces.Keep`."""

    def change_words(self, words: list[str], gaps: list[str], rng: np.random.Generator) -> str:
        """A text of the words that are left, one at least."""
        drawn = np.flatnonzero(rng.random(len(words)) < self.p).tolist()
        gone = {i for i in drawn if not stays(words, i, self.keep)}
        if len(gone) == len(words):
            gone.remove(int(rng.random() * len(words)))
        return without(words, gaps, gone)


@configclass
class InsertWords(OnWords):
    """Put further words at random places, as many as there are words times p (EDA's random insertion,
    arXiv:1901.11196)."""

    p: Probability = 0.1
    """Share of the words; at least one where it is above 0."""
    source: Literal["synonyms", "text"] = "synonyms"
    """synonyms: of random words of the text, in WordNet (English; the extra `augment`). text: its own words once
    more."""

    def check_installed(self) -> None:
        """Refuse to run without synonyms where they are needed.

        Raises:
            InputError: their package is not installed.
        """
        if self.source == "synonyms" and self.p > 0:
            synonyms.check_installed("InsertWords")

    def change_words(self, words: list[str], gaps: list[str], rng: np.random.Generator) -> str:
        """A longer text; one of no word that has a synonym stays itself."""
        count = share(self.p, len(words))
        new: list[str] = []
        for i in rng.permutation(len(words)).tolist():
            # Without its punctuation, which belongs to the place where it stood.
            core = core_of(words[i])[1]
            word = synonyms.synonym(core.lower(), rng) if self.source == "synonyms" else core
            if word:
                new.append(word)
            if len(new) == count:
                break
        for word in new:
            place = int(rng.random() * (len(words) + 1))
            words.insert(place, word)
            gaps.insert(max(place, 1), space_beside(word))
        return joined_words(words, gaps)


@configclass
class ReplaceSynonyms(OnWords):
    """Exchange words for synonyms in WordNet, as many as there are words times p (arXiv:1509.01626, EDA's
    arXiv:1901.11196).

    For English. Words like "the" or "not" and words without a synonym stay; of a word's meanings any may be drawn.
    """

    p: Probability = 0.1
    """Share of the words; at least one where it is above 0."""
    keep: Keep = "nothing"
    """Words that are not exchanged, see `data.text_pieces.Keep`."""

    def check_installed(self) -> None:
        """Refuse to run without synonyms where they are needed.

        Raises:
            InputError: their package is not installed.
        """
        if self.p > 0:
            synonyms.check_installed("ReplaceSynonyms")

    def change_words(self, words: list[str], gaps: list[str], rng: np.random.Generator) -> str:
        """A text of as many words; capitals and punctuation stay."""
        left = share(self.p, len(words))
        before = list(words)
        for i in rng.permutation(len(words)).tolist():
            other = None if stays(before, i, self.keep) else synonyms.synonym(words[i], rng)
            if other is not None:
                words[i] = other
                left -= 1
            if left == 0:
                break
        return joined_words(words, gaps)


@configclass
class CutSpan(OnWords):
    """Leave out words that stand together (span cut-off, arXiv:2009.13818)."""

    p: Probability = 0.1
    """Length of the span as a share of the words; at least one word where it is above 0, and never all."""
    keep: Keep = "nothing"
    """Words that are not left out, see `data.text_pieces.Keep`."""

    def change_words(self, words: list[str], gaps: list[str], rng: np.random.Generator) -> str:
        """A text of the words that are left."""
        length = min(share(self.p, len(words)), len(words) - 1)
        start = int(rng.random() * (len(words) - length + 1))
        return without(words, gaps, {i for i in range(start, start + length) if not stays(words, i, self.keep)})
