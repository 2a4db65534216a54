"""Text operations that swap, delete, insert and replace words."""

from typing import Literal

import numpy as np

from hf_finetune.augmentation.text import synonyms
from hf_finetune.augmentation.text.base import OnWords
from hf_finetune.data.text_pieces import Keep, core_of, joined_words, share, space_beside, stays, without
from hf_finetune.utils.config import Probability, configclass


@configclass
class SwapWords(OnWords):
    """Swap two random words, p times the number of words (EDA's random swap, arXiv:1901.11196)."""

    p: Probability = 0.1
    """Number of swaps as a share of the words; at least one if above 0."""
    keep: Keep = "nothing"
    """Words that keep their position, see `data.text_pieces.Keep`."""

    def change_words(self, words: list[str], gaps: list[str], rng: np.random.Generator) -> str:
        places = [i for i in range(len(words)) if not stays(words, i, self.keep)]
        if len(places) < 2:
            return joined_words(words, gaps)
        for first, second in rng.random((share(self.p, len(words)), 2)).tolist():
            a, b = int(first * len(places)), int(second * (len(places) - 1))
            i, j = places[a], places[b + (b >= a)]  # a word is never swapped with itself
            words[i], words[j] = words[j], words[i]
        return joined_words(words, gaps)


@configclass
class DeleteWords(OnWords):
    """Delete each word with probability p, but never all (EDA's random deletion, arXiv:1901.11196)."""

    p: Probability = 0.1
    """Probability of each word."""
    keep: Keep = "nothing"
    """Words that are never deleted, see `data.text_pieces.Keep`."""

    def change_words(self, words: list[str], gaps: list[str], rng: np.random.Generator) -> str:
        drawn = np.flatnonzero(rng.random(len(words)) < self.p).tolist()
        deleted = {i for i in drawn if not stays(words, i, self.keep)}
        if len(deleted) == len(words):
            deleted.remove(int(rng.random() * len(words)))
        return without(words, gaps, deleted)


@configclass
class InsertWords(OnWords):
    """Insert words at random positions, p times the number of words (EDA's random insertion, arXiv:1901.11196)."""

    p: Probability = 0.1
    """Number of insertions as a share of the words; at least one if above 0."""
    source: Literal["synonyms", "text"] = "synonyms"
    """synonyms: WordNet synonyms of random words of the text (English; needs the extra `augment`). text: random words
    of the text itself."""

    @property
    def needs_synonyms(self) -> bool:
        return self.source == "synonyms" and self.p > 0

    def change_words(self, words: list[str], gaps: list[str], rng: np.random.Generator) -> str:
        count = share(self.p, len(words))
        new: list[str] = []
        for i in rng.permutation(len(words)).tolist():
            # Punctuation belongs to the original position.
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
    """Replace words by WordNet synonyms, p times the number of words (arXiv:1509.01626, EDA's arXiv:1901.11196).

    For English. Function words such as "the" or "not" and words without a synonym stay; a synonym may belong to any
    meaning of the word.
    """

    p: Probability = 0.1
    """Share of the words; at least one word if above 0."""
    keep: Keep = "nothing"
    """Words that are never replaced, see `data.text_pieces.Keep`."""

    @property
    def needs_synonyms(self) -> bool:
        return self.p > 0

    def change_words(self, words: list[str], gaps: list[str], rng: np.random.Generator) -> str:
        left = share(self.p, len(words))
        original = list(words)
        for i in rng.permutation(len(words)).tolist():
            synonym = None if stays(original, i, self.keep) else synonyms.synonym(words[i], rng)
            if synonym is not None:
                words[i] = synonym
                left -= 1
            if left == 0:
                break
        return joined_words(words, gaps)


@configclass
class CutSpan(OnWords):
    """Delete a span of words (span cutoff, arXiv:2009.13818)."""

    p: Probability = 0.1
    """Length of the span as a share of the words; at least one word if above 0, and never all."""
    keep: Keep = "nothing"
    """Words that are never deleted, see `data.text_pieces.Keep`."""

    def change_words(self, words: list[str], gaps: list[str], rng: np.random.Generator) -> str:
        length = min(share(self.p, len(words)), len(words) - 1)
        start = int(rng.random() * (len(words) - length + 1))
        return without(words, gaps, {i for i in range(start, start + length) if not stays(words, i, self.keep)})


WordOperation = SwapWords | DeleteWords | InsertWords | ReplaceSynonyms | CutSpan
