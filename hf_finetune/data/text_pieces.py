"""A text as words or sentences with the white space between them, and which of its words are to stay as they are."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import chain
from typing import Literal

Keep = Literal["nothing", "numbers", "entities"]
"""Words that stay as and where they are. numbers: those with a digit. entities: these, addresses of the web and of
mail, @mentions, #tags, and words with a capital that do not start a sentence: names, as English and many other
languages write them."""

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff"
)
"""Characters of scripts that put no spaces between words (Thai and Lao, Burmese, Khmer, Japanese, Chinese), as they
stand between the brackets of a regular expression: there each is taken for a word."""

# A number that begins with a digit of such a script; some have none of their own.
_OWN_NUMBER = rf"(?=[{UNSPACED}])\d+(?:[.,:/]\d+)*"
# A number or else a letter of such a script is a word, with the marks on it and the punctuation behind it; else words
# stand between white space.
_WORD = re.compile(rf"(?:{_OWN_NUMBER}|[{UNSPACED}])[^\w\s]*|[^\s{UNSPACED}]+")
_UNSPACED = re.compile(f"[{UNSPACED}]")
_DIGIT = re.compile(r"\d")
_ADDRESS = re.compile(r"://|[@#]\w|\w\.[a-z]{2,}\b")
# The letters, with the marks that Unicode's NFD writes behind them, and digits of a word, without the punctuation
# around it; an apostrophe or hyphen inside belongs to it, and what parts the digits of a number.
_LETTERS = r"[^\W_](?:[^\W_]|[\u0300-\u036f])*"
_CORE = re.compile(rf"{_LETTERS}(?:(?:['’-]|(?<=\d)[.,:](?=\d)){_LETTERS})*")
# Chinese and Japanese put no white space behind a full stop.
_END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s)|[。！？]+[」』”’）]*""")
_ENDS_SENTENCE = re.compile(r"""[.!?…。！？]["'”’)\]」』）]*$""")
_SHORT = {"mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "no", "e.g", "i.e"}


def words_of(text: str) -> tuple[list[str], list[str]]:
    """Words, and the white space before each of them and behind the last: one more than words."""
    return _WORD.findall(text), _WORD.split(text)


def space_beside(word: str) -> str:
    """What stands between this word and the next one in its script."""
    return "" if _UNSPACED.match(word) else " "


def joined(pieces: list[str], gaps: list[str]) -> str:
    """The text again."""
    return "".join(chain.from_iterable(zip(gaps, pieces, strict=False))) + gaps[-1]


def joined_words(words: list[str], gaps: list[str]) -> str:
    """The text again, with a space between two words that would be one without: numbers between which a letter of a
    script without spaces is gone."""
    apart = list(gaps)
    for i in range(1, len(words)):
        before, after = words[i - 1], words[i]
        digits = before[-1].isdecimal() and after[0].isdecimal()
        if not apart[i] and (digits or _WORD.findall(before + after) != [before, after]):
            apart[i] = " "
    return joined(words, apart)


def without(words: list[str], gaps: list[str], gone: Collection[int]) -> str:
    """The text of the other words, each with the white space that stood before it; the text's own stays around it."""
    left = [i for i in range(len(words)) if i not in gone]
    return joined_words([words[i] for i in left], [gaps[0], *(gaps[i] for i in left[1:]), gaps[-1]])


def share(p: float, count: int) -> int:
    """So much of a number of words, at least one."""
    return max(1, round(p * count))


def stays(words: list[str], i: int, keep: Keep) -> bool:
    """Whether a word is to stay as and where it is."""
    if keep == "nothing":
        return False
    if _DIGIT.search(words[i]):
        return True
    if keep == "numbers":
        return False
    if _ADDRESS.search(words[i]):
        return True
    if i == 0:
        return False
    core = core_of(words[i])[1]
    is_name = core[:1].isupper() and core != "I" and core[:2] not in ("I'", "I’")
    return is_name and not _ends_sentence(words[i - 1])


def _ends_sentence(word: str) -> bool:
    end = _ENDS_SENTENCE.search(word)
    return end is not None and not (end[0] == "." and _is_short(word[: end.start()]))


def _is_short(word: str) -> bool:
    """Whether a full stop behind the word is of the word, a title or an initial, and ends no sentence."""
    bare = word.strip("(\"'“‘").lower()
    return bare in _SHORT or (len(bare) == 1 and bare.isalpha())


def core_of(word: str) -> tuple[str, str, str]:
    """A word between the punctuation before and behind it; "" where it is nothing but punctuation."""
    core = _CORE.search(word)
    return ("", "", word) if core is None else (word[: core.start()], core[0], word[core.end() :])


def sentences_of(text: str) -> tuple[list[str], list[str]]:
    """Sentences, and the white space before each of them and behind the last: one more than sentences.

    None starts with a small letter, but in a text that has no capitals at all.
    """
    bare = text.strip()
    if not bare:
        return [], [text]
    start = len(text) - len(text.lstrip())
    stop = start + len(bare)
    sentences, gaps = [], [text[:start]]
    has_capitals = any(map(str.isupper, text))
    for end in _END.finditer(text, start, stop):
        following = text[end.end() : stop].lstrip()
        is_short = end[0] == "." and _is_short(text[start : end.start()].rpartition(" ")[2])
        goes_on = has_capitals and following[:1].islower()
        if not following or goes_on or is_short:
            continue
        sentences.append(text[start : end.end()])
        start = stop - len(following)
        gaps.append(text[end.end() : start])
    return [*sentences, text[start:stop]], [*gaps, text[stop:]]
