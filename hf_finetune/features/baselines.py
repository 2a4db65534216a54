"""Baselines without a pretrained network: the majority class, and a linear model of words or pixels.

Legend: N rows, C classes, F features.
"""

import logging
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from scipy import sparse

from hf_finetune.data.text_pieces import UNSPACED
from hf_finetune.data.thumbnails import SIDE, thumbnail
from hf_finetune.features.overlap import overlap
from hf_finetune.utils.sequences import are_sequences

logger = logging.getLogger("hf_finetune")

MAX_CHARACTERS = 20_000_000
"""Limit of the training texts: about 10 s of counting words."""
LONG_TEXT = 50_000
"""Characters of a text that are read."""
MAX_IMAGES = 10_000
"""Limit of the training images: about 10 s of decoding photographs."""
MIN_ROWS = 1_000
"""Least number of training rows, whatever the length of their texts."""
MAX_FEATURES = 50_000
"""Number of words and word pairs of a text column, the most frequent ones."""
LETTERS_FROM = 1_000
"""Number of sequences whose letters make the alphabet."""
OCCURRENCES, LONGEST_KMER = 10, 8
"""Least number of times that a k-mer occurs on average; largest k."""
SEED = 0
"""Seed of the subsample and of the solver."""
# Punctuation marks count as words: "!" and "?" are features of classes.
_WORDS = rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]"


@dataclass(frozen=True)
class Baseline:
    """Predictions of a simple model, to compare with the fine-tuned one."""

    name: str
    """Such as majority, tfidf+logistic or pixels+ridge."""
    scores_NC: Any
    """float64: probabilities, 0 for classes without training rows; or numbers. `Ragged` of words."""


def majority(train: Dataset, rows: Dataset, *, num_labels: int) -> Baseline:
    """Predict the class frequencies of the training rows for every row; their argmax is the majority class.

    Args:
        train: training rows with the column `label`.
        rows: rows to predict.
        num_labels: number of classes C.
    """
    shares_C = np.bincount(_labels(train), minlength=num_labels) / len(train)
    return Baseline("majority", np.tile(shares_C, (len(rows), 1)))


def linear_baseline(train: Dataset, rows: Dataset, *, num_labels: int) -> Baseline:
    """Fit a logistic regression on TF-IDF of words and word pairs, or on standardized pixels of resized images.

    Large training splits are subsampled to MAX_CHARACTERS or MAX_IMAGES, which is logged.

    Args:
        train: training rows with the columns `label` and `text`, perhaps `text_pair`, or `image`.
        rows: rows to predict.
        num_labels: number of classes C.
    """
    # scikit-learn takes half a second to import, which would delay the first step of a run.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    kind, features, test, chosen = shallow_features(train, rows)
    if kind == "pixels":
        # On few dense features the quasi-Newton solver is five times faster than SAGA.
        model = LogisticRegression(C=0.01, tol=1e-3, max_iter=100)
    else:
        # On sparse features SAGA (arXiv:1407.0202) takes a quarter of the time of L-BFGS and is as good here.
        model = LogisticRegression(C=10, solver="saga", tol=1e-2, max_iter=100, random_state=SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, _labels(train)[chosen])
    probabilities_NC = np.zeros((len(rows), num_labels))
    probabilities_NC[:, model.classes_] = model.predict_proba(test)
    return Baseline(f"{kind}+logistic", probabilities_NC)


def shallow_features(train: Dataset, rows: Dataset) -> tuple[str, Any, Any, np.ndarray]:
    """Return TF-IDF of words and word pairs, of k-mers of sequences, or standardized pixels of resized images.

    Args:
        train: training rows, subsampled as `linear_baseline` says.
        rows: rows to predict.

    Returns:
        Their name (tfidf, tfidf+overlap of pairs, 6-mers, or pixels), the features of the training rows and of `rows`,
        shape (N, F), and the indices of the training rows.
    """
    if "image" in train.column_names:
        chosen = _subsample(np.ones(len(train)), MAX_IMAGES, "images")
        return "pixels", *_pixels(train.select(chosen), rows), chosen
    columns = [column for column in ("text", "text_pair") if column in train.column_names]
    characters = np.sum([[len(text) for text in _texts(train, column)] for column in columns], axis=0)
    chosen = _subsample(characters, MAX_CHARACTERS, "characters")
    if are_sequences(_texts(train, columns[0])):
        k = longest_kmer(characters[chosen], set("".join(train[columns[0]][:LETTERS_FROM])))
        return f"{k}-mers", *_kmer_counts(train.select(chosen), rows, columns, k), chosen
    name = "tfidf+overlap" if len(columns) == 2 else "tfidf"
    return name, *_tfidf(train.select(chosen), rows, columns), chosen


def _labels(rows: Dataset) -> np.ndarray:
    return np.asarray(rows["label"][:], dtype=np.int64)


def _texts(rows: Dataset, column: str) -> list[str]:
    return [(text or "")[:LONG_TEXT] for text in rows[column][:]]


def _subsample(sizes: np.ndarray, limit: int, unit: str) -> np.ndarray:
    """Return the sorted indices of as many random rows as have a total size of `limit`."""
    if sizes.sum() <= limit:
        return np.arange(len(sizes))
    order = np.random.default_rng(SEED).permutation(len(sizes))
    count = max(MIN_ROWS, int(np.searchsorted(np.cumsum(sizes[order]), limit, side="right")))
    if count >= len(sizes):
        return np.arange(len(sizes))
    logger.info("linear baseline: fitted on %d of %d training rows (%d %s)", count, len(sizes), limit, unit)
    return np.sort(order[:count])


def _tfidf(train: Dataset, rows: Dataset, columns: list[str]) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Return sparse features (N, F) of the training rows and of `rows`; of pairs those of each text, and `overlap`."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    fitted: list[sparse.csr_matrix] = []
    transformed: list[sparse.csr_matrix] = []
    for column in columns:
        vectorizer = TfidfVectorizer(
            token_pattern=_WORDS, ngram_range=(1, 2), sublinear_tf=True, max_features=MAX_FEATURES, dtype=np.float32
        )
        texts = _texts(train, column)
        if any(text.strip() for text in texts):
            fitted.append(vectorizer.fit_transform(texts))
            transformed.append(vectorizer.transform(_texts(rows, column)))
    if len(columns) == 2:
        words = TfidfVectorizer(token_pattern=_WORDS, sublinear_tf=True, max_features=MAX_FEATURES, dtype=np.float32)
        words.fit(_texts(train, columns[0]) + _texts(train, columns[1]))
        for part, features in ((train, fitted), (rows, transformed)):
            features.append(overlap(*(words.transform(_texts(part, column)) for column in columns)))
    return sparse.hstack(fitted, format="csr"), sparse.hstack(transformed, format="csr")


def longest_kmer(lengths_N: np.ndarray, letters: Collection[str]) -> int:
    """Return the k up to which k-mers are counted: all of them occur `OCCURRENCES` times in random rows of the lengths.

    Args:
        lengths_N: letters of each row.
        letters: the alphabet.
    """
    k = 1
    while k < LONGEST_KMER and len(letters) ** (k + 1) * OCCURRENCES <= lengths_N.sum():
        k += 1
    return k


def _kmer_counts(
    train: Dataset, rows: Dataset, columns: list[str], k: int
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Return TF-IDF (N, F) of all runs of 1 to k letters; those of pairs are concatenated."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    fitted: list[sparse.csr_matrix] = []
    transformed: list[sparse.csr_matrix] = []
    for column in columns:
        vectorizer = TfidfVectorizer(
            analyzer="char", ngram_range=(1, k), lowercase=False, sublinear_tf=True, max_features=MAX_FEATURES
        )
        fitted.append(vectorizer.fit_transform(_texts(train, column)))
        transformed.append(vectorizer.transform(_texts(rows, column)))
    return sparse.hstack(fitted, format="csr"), sparse.hstack(transformed, format="csr")


def _pixels(train: Dataset, rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (N, 3 SIDE^2) of the training rows and of `rows`, standardized by the training rows."""
    from sklearn.preprocessing import StandardScaler

    def resized(rows: Dataset) -> np.ndarray:
        pixels = np.empty((len(rows), SIDE * SIDE * 3), dtype=np.float32)
        for row, image in enumerate(rows["image"]):
            pixels[row] = thumbnail(image).ravel()
        return pixels

    scaler = StandardScaler()
    return scaler.fit_transform(resized(train)), scaler.transform(resized(rows))
