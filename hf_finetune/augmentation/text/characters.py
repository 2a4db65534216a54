"""Text operations on the characters of words: typos, OCR errors, case."""

import re
from typing import Literal

from hf_finetune.augmentation.text.base import PerWord
from hf_finetune.data.text_pieces import Keep
from hf_finetune.utils.config import Probability, configclass

# Rows of a QWERTY keyboard, and their offset to the right, in keys.
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
"""Adjacent keys of each key: digits of digits, letters of letters."""

CONFUSIONS = {
    **{"0": "O", "O": "0", "o": "0", "1": "lI", "l": "1I", "I": "l1", "i": "1", "5": "S", "S": "5", "8": "B", "B": "8"},
    **{"2": "Z", "Z": "2", "6": "b", "b": "6h", "h": "b", "9": "g", "g": "9", "c": "e", "e": "c", "u": "v", "v": "u"},
}
"""Characters that OCR confuses with one another."""
PAIRS = {"rn": "m", "m": "rn", "cl": "d", "d": "cl", "vv": "w", "w": "vv"}
"""Pairs of characters that OCR confuses with one character, and back."""
_CONFUSABLE = re.compile("|".join([*sorted(PAIRS, key=len, reverse=True), f"[{''.join(CONFUSIONS)}]"]))


@configclass
class KeyboardTypos(PerWord):
    """Make one typo, by an adjacent key of a QWERTY keyboard, in some of the words."""

    p: Probability = 0.1
    """Probability of each word."""
    keep: Keep = "nothing"
    """Words to leave unchanged, see `data.text_pieces.Keep`."""

    def change_word(self, word: str, u: float, v: float) -> str:
        places = [i for i, character in enumerate(word) if character.lower() in NEIGHBORS]
        if not places:
            return word
        place = places[int(u * len(places))]
        keys = NEIGHBORS[word[place].lower()]
        key = keys[int(v * len(keys))]
        return word[:place] + (key.upper() if word[place].isupper() else key) + word[place + 1 :]


@configclass
class OcrConfusions(PerWord):
    """Make one OCR error in some of the words: 0 for O, 1 for l, m for rn."""

    p: Probability = 0.1
    """Probability of each word."""
    keep: Keep = "nothing"
    """Words to leave unchanged, see `data.text_pieces.Keep`."""

    def change_word(self, word: str, u: float, v: float) -> str:
        places = list(_CONFUSABLE.finditer(word))
        if not places:
            return word
        place = places[int(u * len(places))]
        readings = (PAIRS[place[0]],) if place[0] in PAIRS else tuple(CONFUSIONS[place[0]])
        return word[: place.start()] + readings[int(v * len(readings))] + word[place.end() :]


@configclass
class ChangeCase(PerWord):
    """Change the case of some of the words. Without effect for a tokenizer that lower-cases."""

    p: Probability = 0.1
    """Probability of each word."""
    to: Literal["any", "lower", "upper", "title"] = "any"
    """lower: word. upper: WORD. title: Word. any: one of these, drawn for each word."""
    keep: Keep = "nothing"
    """Words to leave unchanged, see `data.text_pieces.Keep`."""

    def change_word(self, word: str, u: float, v: float) -> str:
        match ("lower", "upper", "title")[int(3 * u)] if self.to == "any" else self.to:
            case "lower":
                return word.lower()
            case "upper":
                return word.upper()
            case _:
                return word.capitalize()


CharacterOperation = KeyboardTypos | OcrConfusions | ChangeCase
