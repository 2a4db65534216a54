"""Sentences as words: of a list of words, of a text, and of character spans in a text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_finetune.data.labels import SURROGATE, shortened
from hf_finetune.data.text_pieces import UNSPACED

# Letters of scripts without spaces are words of their own, and so are punctuation marks.
_WORDS = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")
_SPANS = ("start", "end", "label")


@dataclass(frozen=True)
class Sentence:
    """A text and its words."""

    text: str
    bounds: list[int]
    """Start and end of each word in the text, one after the other."""

    @property
    def words(self) -> list[str]:
        """The words."""
        return words_in(self.text, self.bounds)


@dataclass(frozen=True)
class TaggedSentence:
    """A sentence, and the cell of its tags."""

    sentence: Sentence
    tags: Any
    of_text: bool
    """Whether its cell is a text, and not a list of words."""


def words_in(text: str, bounds: Sequence[int]) -> list[str]:
    """Return the words of a text by their bounds, see `Sentence`."""
    return [text[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True)]


def word_bounds(text: str) -> list[int]:
    """Return the bounds of the words and punctuation marks of a text, see `Sentence`.

    A mark that belongs to a letter, as the vowels of Hindi do, stays with it. Control characters are no words.
    """
    bounds: list[int] = []
    for match in _WORDS.finditer(text):
        kind = unicodedata.category(match[0][0])
        if bounds and bounds[-1] == match.start() and (kind[0] == "M" or _is_mark(text[match.start() - 1], match[0])):
            bounds[-1] = match.end()
        elif kind[0] != "C":
            bounds += match.span()
    return bounds


def _is_mark(before: str, word: str) -> bool:
    """Return whether a word goes on behind a mark of its last letter."""
    return unicodedata.category(before)[0] == "M" and word[0].isalnum()


def read_sentence(cell: Any, tags: Any = None) -> Sentence | None:
    """Return the sentence of a cell: a list of words, or a text. None: it has no words.

    Args:
        cell: see `labels.literal_list` for those of csv files.
        tags: the cell of its tags. With a tag for each word the words of a text are between spaces; with character
            spans or none, they are words and punctuation marks.

    Raises:
        ValueError: a word is empty or no word, or the cell is of another type.
    """
    if cell is None or (isinstance(cell, float) and cell != cell):
        return None
    if isinstance(cell, str):
        if SURROGATE.search(cell):
            raise ValueError("the text holds half a surrogate pair")
        spaced = tags is not None and not is_spans(tags) and not (isinstance(tags, list) and not tags)
        bounds = [at for match in re.finditer(r"\S+", cell) for at in match.span()] if spaced else word_bounds(cell)
        return Sentence(cell, bounds) if bounds else None
    if not isinstance(cell, Sequence | np.ndarray) or isinstance(cell, bytes):
        raise ValueError(f"expected a list of words or a text, got {shortened(cell)}")
    return _of_words(cell) if len(cell) else None


def _of_words(words: Sequence[Any] | np.ndarray) -> Sentence:
    bounds, at = [], 0
    for number, word in enumerate(words, start=1):
        if not isinstance(word, str | int | float) or word != word:
            raise ValueError(f"word {number} is {shortened(word)}, expected text")
        if not str(word).strip():
            raise ValueError(f"word {number} is empty")
        if SURROGATE.search(str(word)):
            raise ValueError(f"word {number} holds half a surrogate pair")
        bounds += [at, at + len(str(word))]
        at = bounds[-1] + 1
    return Sentence(" ".join(map(str, words)), bounds)


def is_spans(tags: Any) -> bool:
    """Return whether a cell holds character spans: mappings with a start, an end and a label."""
    return isinstance(tags, list) and bool(tags) and isinstance(tags[0], Mapping)


def tags_of_spans(sentence: Sentence, spans: Sequence[Any]) -> list[str]:
    """Return a BIO tag for each word of a text with character spans.

    Raises:
        ValueError: a span is damaged, lies outside of the text, holds no word, cuts one, or overlaps another span.
    """
    text, tags = sentence.text, ["O"] * (len(sentence.bounds) // 2)
    starts, ends = np.array(sentence.bounds[::2]), np.array(sentence.bounds[1::2])
    for span in spans:
        start, end, label = _checked_span(span, len(text))
        name = f"the span {start}-{end} ({text[start:end][:40]!r}, {label})"
        indices = np.flatnonzero((starts < end) & (ends > start))
        if not len(indices):
            raise ValueError(f"{name} holds no word")
        first, last = int(indices[0]), int(indices[-1])
        for i in (first, last):
            if starts[i] < start or ends[i] > end:
                word = text[starts[i] : ends[i]]
                raise ValueError(f"{name} cuts the word {word[:40]!r} ({starts[i]}-{ends[i]}), expected whole words")
        if any(tags[i] != "O" for i in indices):
            raise ValueError(f"{name} overlaps another span, expected one label for each word")
        tags[first : last + 1] = [f"B-{label}", *[f"I-{label}"] * (last - first)]
    return tags


def _checked_span(span: Any, length: int) -> tuple[int, int, str]:
    if not isinstance(span, Mapping) or any(span.get(name) is None for name in _SPANS):
        raise ValueError(f"a span is {shortened(span)}, expected {{start, end, label}}")
    start, end, label = (span[name] for name in _SPANS)
    if not (isinstance(start, int) and isinstance(end, int) and isinstance(label, str | int) and str(label).strip()):
        raise ValueError(f"a span is {shortened(span)}, expected whole numbers start and end, and a label")
    if not 0 <= start < end <= length:
        raise ValueError(f"the span {start}-{end} lies outside of the text of {length} characters")
    return start, end, str(label).strip()
