"""Baselines without a pretrained network: the majority class, and a linear model of words or pixels.

Legend: N rows, C classes, F features.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from scipy import sparse

from hf_finetune.data.image_decoding import decode
from hf_finetune.data.text_pieces import UNSPACED

logger = logging.getLogger("hf_finetune")

MAX_CHARACTERS = 20_000_000
"""Training texts beyond this are left out: about 10 s of counting words."""
MAX_IMAGES = 10_000
"""Training images beyond this are left out: about 10 s of decoding photographs."""
MIN_ROWS = 1_000
"""Training rows that stay however long their texts are."""
MAX_FEATURES = 50_000
"""Most frequent words and word pairs of a text column."""
SIDE = 16
"""Images are shrunk to SIDE x SIDE pixels."""
# Punctuation counts as a word, too: "!" and "?" tell classes apart.
_WORDS = rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]"


@dataclass(frozen=True)
class Baseline:
    """A simple model's predictions, to stand beside those of the fine-tuned one."""

    name: str
    """majority, tfidf+logistic or pixels+logistic."""
    probabilities: dict[str, np.ndarray]
    """By evaluation split, each (N, C) in float64; 0 for classes without training rows."""


def majority(train: Dataset, evals: Mapping[str, Dataset], *, num_labels: int) -> Baseline:
    """The share of each class among the training rows, for every row alike; its argmax is the majority class.

    Args:
        train: training rows with the column `label`.
        evals: rows to score, by the split's name.
        num_labels: number of classes C.
    """
    shares = np.bincount(_labels(train), minlength=num_labels) / len(train)
    return Baseline("majority", {split: np.tile(shares, (len(rows), 1)) for split, rows in evals.items()})


def linear_baseline(train: Dataset, evals: Mapping[str, Dataset], *, num_labels: int, seed: int = 0) -> Baseline:
    """Logistic regression on TF-IDF of words and word pairs, or on the standardized pixels of shrunken images.

    Deterministic. Large training splits are cut, by `seed`, to MAX_CHARACTERS or MAX_IMAGES, which is logged.

    Args:
        train: training rows with the column `label` and either `text`, perhaps `text_pair`, or `image`.
        evals: rows to score, by the split's name.
        num_labels: number of classes C.
        seed: which rows stay, and the order in which the solver visits them.
    """
    # Half a second that no run should wait for before its first step; so below.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if "image" in train.column_names:
        chosen = _cut(np.ones(len(train)), MAX_IMAGES, "images", seed)
        name, features, test = "pixels+logistic", *_pixels(train.select(chosen), evals)
        # The inputs are dense and their number is small: here the quasi-Newton solver is five times the faster one.
        model = LogisticRegression(C=0.01, tol=1e-3, max_iter=100)
    else:
        columns = [column for column in ("text", "text_pair") if column in train.column_names]
        characters = np.sum([[len(text) for text in _texts(train, column)] for column in columns], axis=0)
        chosen = _cut(characters, MAX_CHARACTERS, "characters", seed)
        name, features, test = "tfidf+logistic", *_tfidf(train.select(chosen), evals, columns)
        # On sparse inputs SAGA (arXiv:1407.0202) needs a quarter of L-BFGS's time and, stopped this early, loses
        # nothing.
        model = LogisticRegression(C=10, solver="saga", tol=1e-2, max_iter=100, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, _labels(train)[chosen])
    probabilities = {}
    for split in evals:
        probabilities[split] = np.zeros((len(evals[split]), num_labels))
        probabilities[split][:, model.classes_] = model.predict_proba(test[split])
    return Baseline(name, probabilities)


def _labels(rows: Dataset) -> np.ndarray:
    return np.asarray(rows["label"][:], dtype=np.int64)


def _texts(rows: Dataset, column: str) -> list[str]:
    return [text or "" for text in rows[column][:]]


def _cut(sizes: np.ndarray, limit: int, unit: str, seed: int) -> np.ndarray:
    """Indices of all rows if their sizes sum to `limit` or less, else of as many random ones, in row order."""
    if sizes.sum() <= limit:
        return np.arange(len(sizes))
    order = np.random.default_rng(seed).permutation(len(sizes))
    count = max(MIN_ROWS, int(np.searchsorted(np.cumsum(sizes[order]), limit, side="right")))
    if count >= len(sizes):
        return np.arange(len(sizes))
    logger.info("linear baseline: fitted on %d of %d training rows (%d %s)", count, len(sizes), limit, unit)
    return np.sort(order[:count])


def _tfidf(
    train: Dataset, evals: Mapping[str, Dataset], columns: list[str]
) -> tuple[sparse.csr_matrix, dict[str, sparse.csr_matrix]]:
    """Sparse features (N, F) of the training rows and of each split; those of a pair's two texts stand side by side."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    fitted: list[sparse.csr_matrix] = []
    others: dict[str, list[sparse.csr_matrix]] = {split: [] for split in evals}
    for column in columns:
        vectorizer = TfidfVectorizer(
            token_pattern=_WORDS, ngram_range=(1, 2), sublinear_tf=True, max_features=MAX_FEATURES, dtype=np.float32
        )
        texts = _texts(train, column)
        if not any(text.strip() for text in texts):
            continue
        fitted.append(vectorizer.fit_transform(texts))
        for split, rows in evals.items():
            others[split].append(vectorizer.transform(_texts(rows, column)))
    stacked = {split: sparse.hstack(blocks, format="csr") for split, blocks in others.items()}
    return sparse.hstack(fitted, format="csr"), stacked


def _pixels(train: Dataset, evals: Mapping[str, Dataset]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Pixels (N, 3 SIDE^2) of the training rows and of each split, standardized by the training rows."""
    from PIL import Image  # an optional dependency
    from sklearn.preprocessing import StandardScaler

    def shrunken(rows: Dataset) -> np.ndarray:
        pixels = np.empty((len(rows), SIDE * SIDE * 3), dtype=np.float32)
        for row, image in enumerate(rows["image"]):
            pixels[row] = np.asarray(decode(image).resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()
        return pixels

    scaler = StandardScaler()
    return scaler.fit_transform(shrunken(train)), {s: scaler.transform(shrunken(rows)) for s, rows in evals.items()}
