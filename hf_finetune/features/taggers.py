"""Baselines of the tags of words: the most frequent tag of each word, and a linear model of its shape and neighbors.

Legend: W words, C tags.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from hf_finetune.data.labels import labels_of
from hf_finetune.data.ragged import Ragged
from hf_finetune.data.words import words_in
from hf_finetune.features.baselines import Baseline
from hf_finetune.features.extractors.base import SEED

logger = logging.getLogger("hf_finetune")

MOST_WORDS = 300_000
"""Training words of the linear model: about 10 s."""
FEATURES = 2**18
"""Hashed features (arXiv:0902.2206)."""
AFFIX = 4
"""Longest prefix and suffix in letters."""


def sentences_of(rows: Dataset) -> list[list[str]]:
    """Return the words of each row."""
    return [words_in(text, bounds) for text, bounds in zip(rows["text"][:], rows["bounds"][:], strict=True)]


def most_frequent_tags(train: Dataset, rows: Dataset, *, num_tags: int) -> Baseline:
    """Predict for each word how often the training words of the same spelling have each tag; of a new word, of all.

    A word that is new in this spelling has the tags of its spelling in lower case.
    """
    labels, counts = labels_of(train), dict[str, np.ndarray]()
    for word, tag in zip(_flat(sentences_of(train)), labels.values, strict=True):
        for key in {word, word.lower()}:
            counts.setdefault(key, np.zeros(num_tags))[tag] += 1
    overall = np.bincount(labels.values, minlength=num_tags)
    sentences = sentences_of(rows)
    known = (counts.get(word, counts.get(word.lower(), overall)) for word in _flat(sentences))
    shares = np.array([each / each.sum() for each in known])
    return Baseline("most frequent tag of the word", Ragged.of(shares, [len(words) for words in sentences]))


def linear_tagger(train: Dataset, rows: Dataset, *, num_tags: int) -> Baseline:
    """Fit a logistic regression to hashed features of each word, its shape, affixes and neighbors."""
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.linear_model import SGDClassifier

    labels = labels_of(train)
    train, labels = _subsample(train, labels)
    hasher = FeatureHasher(FEATURES, input_type="string", alternate_sign=False)
    sentences = sentences_of(rows)
    model = SGDClassifier(loss="log_loss", alpha=1e-5, average=True, max_iter=8, tol=None, random_state=SEED)
    model.fit(hasher.transform(_features(sentences_of(train))), labels.values)
    shares = np.zeros((sum(map(len, sentences)), num_tags))
    predicted = model.predict_proba(hasher.transform(_features(sentences)))
    # Of one-vs-rest scores that are all 0, scikit-learn makes NaN.
    shares[:, model.classes_] = np.nan_to_num(predicted, nan=1 / len(model.classes_))
    return Baseline("hashed words+logistic", Ragged.of(shares, [len(words) for words in sentences]))


def _subsample(train: Dataset, labels: Ragged) -> tuple[Dataset, Ragged]:
    if len(labels.values) <= MOST_WORDS:
        return train, labels
    order = np.random.default_rng(SEED).permutation(len(labels))
    chosen = np.sort(order[: max(1, int(np.searchsorted(np.cumsum(labels.lengths[order]), MOST_WORDS)))])
    logger.info("linear baseline: fitted on %d of %d training rows (%d words)", len(chosen), len(labels), MOST_WORDS)
    return train.select(chosen), labels[chosen]


def _flat(sentences: Sequence[Sequence[str]]) -> Iterator[str]:
    return (word for words in sentences for word in words)


def _features(sentences: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Yield the features of each word."""
    for words in sentences:
        lower = [word.lower() for word in words]
        padded: list[Any] = ["<<", "<", *lower, ">", ">>"]
        for i, (word, small) in enumerate(zip(words, lower, strict=True)):
            before2, before, _, after, after2 = padded[i : i + 5]
            affixes = range(1, min(AFFIX, len(small)) + 1)
            yield [
                f"w={small}",
                f"as={word}",
                f"shape={_shape(word)}",
                f"first={i == 0}",
                *(f"pre={small[:n]}" for n in affixes),
                *(f"suf={small[-n:]}" for n in affixes),
                f"-1={before}",
                f"+1={after}",
                f"-2={before2}",
                f"+2={after2}",
                f"-1,0={before} {small}",
                f"0,+1={small} {after}",
                f"-1suf={before[-3:]}",
                f"+1suf={after[-3:]}",
                f"-1shape={_shape(words[i - 1]) if i else '<'}",
                f"+1shape={_shape(words[i + 1]) if i + 1 < len(words) else '>'}",
            ]


def _shape(word: str) -> str:
    """Return a word with its letters as X and x and its digits as 0, each run once: McDonald is XxXx."""
    shape = "".join("X" if c.isupper() else "0" if c.isdigit() else "x" if c.isalpha() else c for c in word)
    return re.sub(r"(.)\1+", r"\1", shape)[:12]
