"""Split a text into words or sentences with the white space between them, and find words to leave unchanged."""

import re
from collections.abc import Collection
from itertools import chain
from typing import Literal

Keep = Literal["nothing", "numbers", "entities"]
"""Words to leave unchanged and in place. numbers: words with a digit. entities: also web and mail addresses, @mentions,
#tags, and capitalized words that do not start a sentence, which are names in English and many other languages."""

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff"
)
"""Scripts without spaces between words (Thai and Lao, Burmese, Khmer, Japanese, Chinese), as a regular expression
character set. Each of their characters counts as a word."""

# A number in the digits of such a script.
_UNSPACED_NUMBER = rf"(?=[{UNSPACED}])\d+(?:[.,:/]\d+)*"
# In such a script, a word is a number or one letter, with marks and punctuation that follow; else what stands between
# white space.
_WORD = re.compile(rf"(?:{_UNSPACED_NUMBER}|[{UNSPACED}])[^\w\s]*|[^\s{UNSPACED}]+")
_UNSPACED = re.compile(f"[{UNSPACED}]")
_DIGIT = re.compile(r"\d")
_ADDRESS = re.compile(r"://|[@#]\w|\w\.[a-z]{2,}\b")
# The letters (with combining marks) and digits of a word, without the punctuation around it; apostrophes and hyphens
# inside a word belong to it, as do separators within a number.
_LETTERS = r"[^\W_](?:[^\W_]|[\u0300-\u036f])*"
_CORE = re.compile(rf"{_LETTERS}(?:(?:['’-]|(?<=\d)[.,:](?=\d)){_LETTERS})*")
# Chinese and Japanese have no white space after a full stop.
_END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s)|[。！？]+[」』”’）]*""")
_ENDS_SENTENCE = re.compile(r"""[.!?…。！？]["'”’)\]」』）]*$""")
_SHORT = {"mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "no", "e.g", "i.e"}


def words_of(text: str) -> tuple[list[str], list[str]]:
    """Return the words, and the white space before each word and after the last."""
    return _WORD.findall(text), _WORD.split(text)


def space_beside(word: str) -> str:
    """Return the separator between words in the script of this word."""
    return "" if _UNSPACED.match(word) else " "


def joined(pieces: list[str], gaps: list[str]) -> str:
    """Join pieces with the white space between them."""
    return "".join(chain.from_iterable(zip(gaps, pieces, strict=False))) + gaps[-1]


def joined_words(words: list[str], gaps: list[str]) -> str:
    """Join words, with a space where two of them would merge, such as numbers once the letter between is deleted."""
    spaces = list(gaps)
    for i in range(1, len(words)):
        before, after = words[i - 1], words[i]
        digits = before[-1].isdecimal() and after[0].isdecimal()
        if not spaces[i] and (digits or _WORD.findall(before + after) != [before, after]):
            spaces[i] = " "
    return joined(words, spaces)


def without(words: list[str], gaps: list[str], deleted: Collection[int]) -> str:
    """Join the words that remain when some are deleted, each with the white space before it."""
    kept = [i for i in range(len(words)) if i not in deleted]
    return joined_words([words[i] for i in kept], [gaps[0], *(gaps[i] for i in kept[1:]), gaps[-1]])


def share(p: float, count: int) -> int:
    """Return a share of a number of words, at least one."""
    return max(1, round(p * count))


def stays(words: list[str], i: int, keep: Keep) -> bool:
    """Return whether a word must be left unchanged."""
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
    """Return whether a word is an abbreviation (a title or an initial), whose full stop ends no sentence."""
    bare = word.strip("(\"'“‘").lower()
    return bare in _SHORT or (len(bare) == 1 and bare.isalpha())


def core_of(word: str) -> tuple[str, str, str]:
    """Split a word into leading punctuation, letters ("" if there are none), and trailing punctuation."""
    core = _CORE.search(word)
    return ("", "", word) if core is None else (word[: core.start()], core[0], word[core.end() :])


def sentences_of(text: str) -> tuple[list[str], list[str]]:
    """Return the sentences, and the white space before each sentence and after the last.

    A sentence starts with a small letter only in a text without capitals.
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
        continues = has_capitals and following[:1].islower()
        if not following or continues or is_short:
            continue
        sentences.append(text[start : end.end()])
        start = stop - len(following)
        gaps.append(text[end.end() : start])
    return [*sentences, text[start:stop]], [*gaps, text[stop:]]
