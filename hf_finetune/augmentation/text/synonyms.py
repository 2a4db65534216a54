"""Synonyms of English words: WordNet, as the package oyemi carries it, a file of 25 MB that needs no download of its
own.

Only that file is read: the package's own search goes through all of it for every word.
"""

from __future__ import annotations

import functools
import importlib.metadata
import sqlite3
from collections import defaultdict
from pathlib import Path

import numpy as np

from hf_finetune.data.text_pieces import core_of
from hf_finetune.errors import InputError

# WordNet has most of them under another meaning: "in" is an inch, "who" an organization, "it" computing.
_FUNCTION_WORDS = """
a about above across after again against all almost along also although always am among an and another any anybody
anyone anything are around as at away be became because been before behind being below between both but by can cannot
could did do does doing done down during each either else enough even ever every everybody everyone everything few for
from further had has have having he hence her here hers herself him himself his how however i if in indeed into is it
its itself just least less lot many may me might mine more most much must my myself near need neither never
nevertheless no nobody none nor not nothing now nowhere of off often on once one only onto or other others otherwise
ought our ours ourselves out over own per perhaps quite rather same shall she should since so some somebody someone
something still such than that the their theirs them themselves then there therefore these they this those though
through thus to together too toward towards under until up upon us very was we well were what whatever when where
whether which while who whole whom whose why will with within without would yet you your yours yourself yourselves
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def check_installed(operation: str) -> None:
    """Refuse an operation for want of the package.

    Args:
        operation: its name.

    Raises:
        InputError: with the command that installs it.
    """
    try:
        _file()
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"{operation}: expected a package of synonyms, got none installed; pip install 'hf_finetune[augment]'"
        ) from None


def synonym(word: str, rng: np.random.Generator) -> str | None:
    """Another word for it, with its capitals and the punctuation around it; None where none is known."""
    before, core, behind = core_of(word)
    known = synonyms_of(core.lower())
    if not known:
        return None
    chosen = known[int(rng.random() * len(known))]
    if len(core) > 1 and core.isupper():
        chosen = chosen.upper()
    elif core[0].isupper():
        chosen = chosen[0].upper() + chosen[1:]
    return before + chosen + behind


@functools.lru_cache(maxsize=1 << 16)
def synonyms_of(word: str) -> tuple[str, ...]:
    """Single words that share a meaning with a word in lower case, those of its commonest meanings first.

    A plural that WordNet does not list has those of its singular, with an s where no more than that is needed.
    """
    if len(word) < 2 or word in FUNCTION_WORDS:
        return ()
    meanings, words = _index()
    if word in meanings:
        return tuple(dict.fromkeys(other for m in meanings[word] for other in words[m] if other != word))
    stem = word[:-1]
    if word.endswith("s") and stem in meanings and stem not in FUNCTION_WORDS and len(stem) > 1:
        other_endings = ("s", "x", "z", "ch", "sh", "y", "o", "f")
        return tuple(f"{other}s" for other in synonyms_of(stem) if not other.endswith(other_endings))
    return ()


@functools.cache
def _index() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Meanings of each word, the commonest first, and words of each meaning. Names are left out, and terms of several
    words."""
    connection = sqlite3.connect(f"{_file().as_uri()}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT word, code FROM lexicon ORDER BY priority DESC, word, code").fetchall()
    finally:
        connection.close()
    meanings: dict[str, list[str]] = defaultdict(list)
    words: dict[str, list[str]] = defaultdict(list)
    for word, code in rows:
        if " " not in word and word.islower():
            # The numbers of the hypernym and of the meaning below it; what follows are properties of the word.
            meaning = code[:10]
            meanings[word].append(meaning)
            words[meaning].append(word)
    return dict(meanings), dict(words)


def _file() -> Path:
    return Path(str(importlib.metadata.distribution("oyemi").locate_file("data/lexicon.db")))
