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
"""Limit of the training texts: about 10 s of counting words."""
MAX_IMAGES = 10_000
"""Limit of the training images: about 10 s of decoding photographs."""
MIN_ROWS = 1_000
"""Least number of training rows, whatever the length of their texts."""
MAX_FEATURES = 50_000
"""Number of words and word pairs of a text column, the most frequent ones."""
SIDE = 16
"""Side of the resized images in pixels."""
# Punctuation marks count as words: "!" and "?" are features of classes.
_WORDS = rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]"


@dataclass(frozen=True)
class Baseline:
    """Predictions of a simple model, to compare with the fine-tuned one."""

    name: str
    """majority, tfidf+logistic or pixels+logistic."""
    probabilities: dict[str, np.ndarray]
    """By evaluation split, (N, C) in float64; 0 for classes without training rows."""


def majority(train: Dataset, evals: Mapping[str, Dataset], *, num_labels: int) -> Baseline:
    """Predict the class frequencies of the training rows for every row; their argmax is the majority class.

    Args:
        train: training rows with the column `label`.
        evals: rows to predict, by split.
        num_labels: number of classes C.
    """
    shares = np.bincount(_labels(train), minlength=num_labels) / len(train)
    return Baseline("majority", {split: np.tile(shares, (len(rows), 1)) for split, rows in evals.items()})


def linear_baseline(train: Dataset, evals: Mapping[str, Dataset], *, num_labels: int, seed: int = 0) -> Baseline:
    """Fit a logistic regression on TF-IDF of words and word pairs, or on standardized pixels of resized images.

    Large training splits are subsampled to MAX_CHARACTERS or MAX_IMAGES, which is logged.

    Args:
        train: training rows with the columns `label` and `text`, perhaps `text_pair`, or `image`.
        evals: rows to predict, by split.
        num_labels: number of classes C.
        seed: of the subsample and of the solver.
    """
    # scikit-learn takes half a second to import, which would delay the first step of a run.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if "image" in train.column_names:
        chosen = _subsample(np.ones(len(train)), MAX_IMAGES, "images", seed)
        name, features, test = "pixels+logistic", *_pixels(train.select(chosen), evals)
        # On few dense features the quasi-Newton solver is five times faster than SAGA.
        model = LogisticRegression(C=0.01, tol=1e-3, max_iter=100)
    else:
        columns = [column for column in ("text", "text_pair") if column in train.column_names]
        characters = np.sum([[len(text) for text in _texts(train, column)] for column in columns], axis=0)
        chosen = _subsample(characters, MAX_CHARACTERS, "characters", seed)
        name, features, test = "tfidf+logistic", *_tfidf(train.select(chosen), evals, columns)
        # On sparse features SAGA (arXiv:1407.0202) takes a quarter of the time of L-BFGS and is as good here.
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


def _subsample(sizes: np.ndarray, limit: int, unit: str, seed: int) -> np.ndarray:
    """Return the sorted indices of as many random rows as have a total size of `limit`."""
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
    """Return sparse features (N, F) of the training rows and of each split; those of text pairs are concatenated."""
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
    """Return pixels (N, 3 SIDE^2) of the training rows and of each split, standardized by the training rows."""
    from PIL import Image  # an optional dependency
    from sklearn.preprocessing import StandardScaler

    def resized(rows: Dataset) -> np.ndarray:
        pixels = np.empty((len(rows), SIDE * SIDE * 3), dtype=np.float32)
        for row, image in enumerate(rows["image"]):
            pixels[row] = np.asarray(decode(image).resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()
        return pixels

    scaler = StandardScaler()
    return scaler.fit_transform(resized(train)), {s: scaler.transform(resized(rows)) for s, rows in evals.items()}
