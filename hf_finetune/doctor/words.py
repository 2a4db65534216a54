"""Check the tags of words: impossible ones, and words with many tags.

Legend: N rows, W words, C tags.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from hf_finetune.data.ragged import Ragged
from hf_finetune.data.tag_scheme import TagScheme, scheme_of
from hf_finetune.doctor.findings import Finding, Suspect, diagnose

FEWEST_OCCURRENCES = 10
"""Training words of one spelling from which its tags are compared."""
MOST_COMMON = 0.6
"""Share of a word's most frequent tag below which the word has many."""
TAGS_NAMED = 4


def examine_words(tags: Ragged, sentences: Sequence[Sequence[str]], names: Sequence[str]) -> list[Finding]:
    """Check the tags of all rows.

    Args:
        tags: tag of each word.
        sentences: the words of each row.
        names: names of the tags.
    """
    spellings = _tags_by_word(tags, sentences)
    many = [
        f"{word!r}: " + ", ".join(f"{names[tag]} {count:,}" for tag, count in counts.most_common(TAGS_NAMED))
        for word, counts in spellings
    ]
    scheme = scheme_of(names)
    suspects = [] if scheme is None else _impossible(tags, sentences, names, scheme)
    return [
        diagnose("impossible_tags", len(tags), suspects),
        diagnose("ambiguous_words", len({word for words in sentences for word in words}), details=many),
    ]


def _impossible(
    tags: Ragged, sentences: Sequence[Sequence[str]], names: Sequence[str], scheme: TagScheme
) -> list[Suspect]:
    """Return the rows with a tag that cannot follow the one before, each by its first such word."""
    follows_CC, begins_C, ends_C = scheme.allowed()
    suspects = []
    for row, (of_row, words) in enumerate(zip(tags, sentences, strict=True)):
        wrong = np.flatnonzero(~np.append(begins_C[of_row[:1]], follows_CC[of_row[:-1], of_row[1:]]))
        if len(wrong):
            word = int(wrong[0])
            after = f"after {names[of_row[word - 1]]}" if word else "at the beginning"
            suspects.append(Suspect(row, f"word {word + 1}, {words[word]!r}, is {names[of_row[word]]} {after}"))
        elif not ends_C[of_row[-1]]:
            suspects.append(Suspect(row, f"the last word, {words[-1]!r}, is {names[of_row[-1]]}, which goes on"))
    return suspects


def _tags_by_word(tags: Ragged, sentences: Sequence[Sequence[str]]) -> list[tuple[str, Counter[int]]]:
    """Return the words with many tags, and how often they have each, the most frequent words first."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for word, tag in zip((word for words in sentences for word in words), tags.values.tolist(), strict=True):
        counts[word][tag] += 1
    many = [
        (word, of_word)
        for word, of_word in counts.items()
        if (total := of_word.total()) >= FEWEST_OCCURRENCES and of_word.most_common(1)[0][1] < MOST_COMMON * total
    ]
    return sorted(many, key=lambda each: -each[1].total())
