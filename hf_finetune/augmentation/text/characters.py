"""Operations on the characters of words: how people type, how scanners read, and capitals. Every word stays a word."""

from __future__ import annotations

import re
from typing import Literal

from hf_finetune.augmentation.text.base import SomeWords
from hf_finetune.data.text_pieces import Keep
from hf_finetune.utils.config import Probability, configclass

# Rows of a QWERTY keyboard, and how far each is shifted to the right, in keys.
ROWS = (("1234567890", 0.0), ("qwertyuiop", 0.5), ("asdfghjkl", 0.75), ("zxcvbnm", 1.25))
_KEYS = {key: (x + shift, y) for y, (row, shift) in enumerate(ROWS) for x, key in enumerate(row)}
NEIGHBORS = {
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
class KeyboardTypos(SomeWords):
    """Hit a neighboring key of a QWERTY keyboard once in some of the words."""

    p: Probability = 0.1
    """Probability of each word."""
    keep: Keep = "nothing"
    """Words without mistakes, see `data.text_pieces.Keep`."""

    def write(self, word: str, first: float, second: float) -> str:
        """A word of the same length; one without a Latin letter or a digit stays itself."""
        places = [i for i, character in enumerate(word) if character.lower() in NEIGHBORS]
        if not places:
            return word
        place = places[int(first * len(places))]
        keys = NEIGHBORS[word[place].lower()]
        hit = keys[int(second * len(keys))]
        return word[:place] + (hit.upper() if word[place].isupper() else hit) + word[place + 1 :]


@configclass
class OcrConfusions(SomeWords):
    """Read one place wrong in some of the words, as a scanner does: 0 for O, 1 for l, m for rn."""

    p: Probability = 0.1
    """Probability of each word."""
    keep: Keep = "nothing"
    """Words without mistakes, see `data.text_pieces.Keep`."""

    def write(self, word: str, first: float, second: float) -> str:
        """A word read wrong; one without a character that is taken for another stays itself."""
        places = list(_CONFUSABLE.finditer(word))
        if not places:
            return word
        place = places[int(first * len(places))]
        readings = (PAIRS[place[0]],) if place[0] in PAIRS else tuple(CONFUSIONS[place[0]])
        return word[: place.start()] + readings[int(second * len(readings))] + word[place.end() :]


@configclass
class ChangeCase(SomeWords):
    """Write some of the words in other capitals. A tokenizer that lower-cases everything sees nothing of it."""

    p: Probability = 0.1
    """Probability of each word."""
    to: Literal["any", "lower", "upper", "title"] = "any"
    """lower: word. upper: WORD. title: Word. any: one of them, drawn for each word."""
    keep: Keep = "nothing"
    """Words that stay as written, see `data.text_pieces.Keep`."""

    def write(self, word: str, first: float, second: float) -> str:
        """A word of the same letters."""
        match ("lower", "upper", "title")[int(3 * first)] if self.to == "any" else self.to:
            case "lower":
                return word.lower()
            case "upper":
                return word.upper()
            case _:
                return word.capitalize()
