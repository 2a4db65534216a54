"""Operations on the characters of words: how people type, how scanners read, and capitals. Every word stays a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import numpy as np

from hf_finetune.augmentation.text.base import EachText
from hf_finetune.data.text_pieces import Keep, joined, stays, words_of
from hf_finetune.utils.config import Probability, configclass

# Rows of a QWERTY keyboard, and how far each is shifted to the right, in keys.
ROWS = (("1234567890", 0.0), ("qwertyuiop", 0.5), ("asdfghjkl", 0.75), ("zxcvbnm", 1.25))
_KEYS = {key: (x + shift, y) for y, (row, shift) in enumerate(ROWS) for x, key in enumerate(row)}
NEIGHBOURS = {
    key: "".join(
        other
        for other, (u, v) in _KEYS.items()
        if other != key and other.isdigit() == key.isdigit() and (u - x) ** 2 + (v - y) ** 2 < 1.6
    )
    for key, (x, y) in _KEYS.items()
}
"""Keys that touch a key; digits have digits, letters letters."""

CONFUSIONS = {
    **{"0": "O", "O": "0", "o": "0", "1": "lI", "l": "1I", "I": "l1", "i": "1", "5": "S", "S": "5", "8": "B", "B": "8"},
    **{"2": "Z", "Z": "2", "6": "b", "b": "6h", "h": "b", "9": "g", "g": "9", "c": "e", "e": "c", "u": "v", "v": "u"},
}
"""Characters that a scanner takes for one another."""
PAIRS = {"rn": "m", "m": "rn", "cl": "d", "d": "cl", "vv": "w", "w": "vv"}
"""Two characters that a scanner takes for one, and back."""
_CONFUSABLE = re.compile("|".join([*sorted(PAIRS, key=len, reverse=True), f"[{''.join(CONFUSIONS)}]"]))


@configclass
class KeyboardTypos(EachText):
    """Hit a neighbouring key of a QWERTY keyboard once in some of the words."""

    p: Probability = 0.1
    """Probability of each word."""
    keep: Keep = "nothing"
    """Words without mistakes, see `text_pieces.Keep`."""

    def change(self, text: str, rng: np.random.Generator) -> str:
        """A text of the same length; words without a Latin letter or a digit stay themselves."""
        return _some_words(text, rng, self.p, self.keep, _typo)


@configclass
class OcrConfusions(EachText):
    """Read one place wrong in some of the words, as a scanner does: 0 for O, 1 for l, m for rn."""

    p: Probability = 0.1
    """Probability of each word."""
    keep: Keep = "nothing"
    """Words without mistakes, see `text_pieces.Keep`."""

    def change(self, text: str, rng: np.random.Generator) -> str:
        """A text of as many words; those without a character that is taken for another stay themselves."""
        return _some_words(text, rng, self.p, self.keep, _misread)


@configclass
class ChangeCase(EachText):
    """Write some of the words in other capitals. A tokenizer that lower-cases everything sees nothing of it."""

    p: Probability = 0.1
    """Probability of each word."""
    to: Literal["any", "lower", "upper", "title"] = "any"
    """lower: word. upper: WORD. title: Word. any: one of them, drawn for each word."""
    keep: Keep = "nothing"
    """Words that stay as written, see `text_pieces.Keep`."""

    def change(self, text: str, rng: np.random.Generator) -> str:
        """A text of the same letters."""
        return _some_words(text, rng, self.p, self.keep, self._written)

    def _written(self, word: str, first: float, _: float) -> str:
        match ("lower", "upper", "title")[int(3 * first)] if self.to == "any" else self.to:
            case "lower":
                return word.lower()
            case "upper":
                return word.upper()
            case _:
                return word.capitalize()


def _some_words(
    text: str, rng: np.random.Generator, p: float, keep: Keep, change: Callable[[str, float, float], str]
) -> str:
    """The text with each word, with probability p, sent through `change`, which gets two numbers drawn for it."""
    words, gaps = words_of(text)
    if not words or p == 0:
        return text
    drawn = rng.random((len(words), 3))
    new = list(words)
    for i in np.flatnonzero(drawn[:, 0] < p).tolist():
        if not stays(words, i, keep):
            new[i] = change(words[i], float(drawn[i, 1]), float(drawn[i, 2]))
    return joined(new, gaps)


def _typo(word: str, first: float, second: float) -> str:
    places = [i for i, character in enumerate(word) if character.lower() in NEIGHBOURS]
    if not places:
        return word
    place = places[int(first * len(places))]
    near = NEIGHBOURS[word[place].lower()]
    hit = near[int(second * len(near))]
    return word[:place] + (hit.upper() if word[place].isupper() else hit) + word[place + 1 :]


def _misread(word: str, first: float, second: float) -> str:
    places = list(_CONFUSABLE.finditer(word))
    if not places:
        return word
    place = places[int(first * len(places))]
    readings = (PAIRS[place[0]],) if place[0] in PAIRS else tuple(CONFUSIONS[place[0]])
    return word[: place.start()] + readings[int(second * len(readings))] + word[place.end() :]
