"""Synonyms of English words from WordNet, as packaged by oyemi: a file of 25 MB that needs no separate download.

Only that file is used, as oyemi's own lookup scans all of it for every word.
"""

import functools
import importlib.metadata
import sqlite3
from collections import defaultdict
from pathlib import Path

import numpy as np

from hf_finetune.data.text_pieces import core_of
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import install_command

# WordNet lists most of these with another meaning: "in" is an inch, "who" an organization, "it" computing.
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
    """Refuse an operation if the package is not installed.

    Raises:
        InputError: with the command that installs it.
    """
    try:
        _file()
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"{operation}: expected the package oyemi for synonyms, got none; {install_command('augment')}"
        ) from None


def synonym(word: str, rng: np.random.Generator) -> str | None:
    """Return a random synonym with the word's case and surrounding punctuation, or None if there is none."""
    before, core, behind = core_of(word)
    candidates = synonyms_of(core.lower())
    if not candidates:
        return None
    chosen = candidates[int(rng.random() * len(candidates))]
    if len(core) > 1 and core.isupper():
        chosen = chosen.upper()
    elif core[0].isupper():
        chosen = chosen[0].upper() + chosen[1:]
    return before + chosen + behind


@functools.lru_cache(maxsize=1 << 16)
def synonyms_of(word: str) -> tuple[str, ...]:
    """Return the single-word synonyms of a lower-case word, those of its most common meanings first.

    A plural that WordNet does not list gets the synonyms of its singular, if appending an s makes them plural.
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
    """Return the meanings of each word, the most common first, and the words of each meaning.

    Names and multi-word terms are excluded.
    """
    connection = sqlite3.connect(f"{_file().as_uri()}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT word, code FROM lexicon ORDER BY priority DESC, word, code").fetchall()
    finally:
        connection.close()
    meanings: dict[str, list[str]] = defaultdict(list)
    words: dict[str, list[str]] = defaultdict(list)
    for word, code in rows:
        if " " not in word and word.islower():
            # The ids of the hypernym and of the meaning; the rest are properties of the word.
            meaning = code[:10]
            meanings[word].append(meaning)
            words[meaning].append(word)
    return dict(meanings), dict(words)


def _file() -> Path:
    return Path(str(importlib.metadata.distribution("oyemi").locate_file("data/lexicon.db")))
